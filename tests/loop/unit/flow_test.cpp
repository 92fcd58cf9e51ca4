// Flow control: water marks, hold() and release().

#include "loop_fixture.h"

// ---- water marks -------------------------------------------------------------------------------

class FlowTest : public LoopTest {};

TEST_F(FlowTest, HighWaterPausesReadingAndLowWaterResumes) {
    make_loop({.high_water = 100'000, .low_water = 20'000});
    std::size_t most = 0;
    hooks.read = [&](Conn& conn) {
        EXPECT_LT(conn.unsent(), 100'000u);
        echo(conn);
        most = std::max(most, conn.unsent());
    };
    Client& client = accepted_client(4096);
    Conn* conn = last_conn();
    std::string sent = pattern(16 << 20);
    std::size_t done = 0;
    receiving = false;
    for (int quiet = 0; quiet < 50; ++quiet) {
        std::size_t n = client.send_some(std::string_view(sent).substr(done));
        done += n;
        if (n > 0) quiet = 0;
        turn();
    }
    EXPECT_LT(done, sent.size()) << "the kernel's buffers took it all: nothing was tested";
    EXPECT_GE(conn->unsent(), 100'000u);
    EXPECT_LE(most, 100'000u + (64u << 10));
    EXPECT_TRUE(rests()) << "a paused connection spins";
    // Reading goes on at the low mark, not before.
    int reads = hooks.reads;
    bool below = false;
    EXPECT_TRUE(turn_until([&] {
        if (hooks.reads != reads) return true;
        below = conn->unsent() <= 20'000;
        client.receive(1000);
        return false;
    }));
    EXPECT_TRUE(below || conn->unsent() <= 20'000u + (64 << 10));
    receiving = true;
    EXPECT_TRUE(turn_until([&] {
        done += client.send_some(std::string_view(sent).substr(done));
        return client.bytes.size() == sent.size();
    }));
    EXPECT_TRUE(client.bytes == sent);
}

// A small request may ask for a large answer: a thousand of them in one segment must not all be
// answered into memory.
TEST_F(FlowTest, HighWaterPausesParsingAndLowWaterOffersTheRest) {
    make_loop({.high_water = 50'000, .low_water = 10'000});
    std::string answer = pattern(1000);
    std::size_t most = 0;
    hooks.read = [&](Conn& conn) {
        while (!conn.input().empty()) {
            conn.write(answer);
            conn.consume(1);
            most = std::max(most, conn.unsent());
        }
    };
    kernel.send = [&](int fd, const void* bytes, std::size_t size, int flags) {
        return real::send(fd, bytes, std::min<std::size_t>(size, 5000), flags);
    };
    Client& client = accepted_client();
    client.send(std::string(1000, '?'));
    EXPECT_TRUE(turn_until([&] { return client.bytes.size() == 1'000'000; }));
    EXPECT_LE(most, 50'000u + 1000u);
    EXPECT_TRUE(rests());
}

TEST_F(FlowTest, ALowWaterMarkOfZeroIsReached) {
    make_loop({.high_water = 1000, .low_water = 0});
    Client& client = accepted_client();
    for (int i = 1; i <= 3; ++i) {
        client.send(pattern(2000));
        EXPECT_TRUE(turn_until([&] { return client.bytes.size() == i * 2000u; }));
    }
}

// What can be offered is not added to: a client that sends fast costs no memory beyond one recv().
TEST_F(FlowTest, NothingIsReceivedWhileInputIsLeft) {
    std::size_t left = 0;
    hooks.read = [&](Conn& conn) {
        left = conn.input().size() - 1;
        conn.consume(1);
    };
    kernel.recv = [&](int fd, void* bytes, std::size_t size, int flags) {
        EXPECT_EQ(left, 0u);
        return real::recv(fd, bytes, std::min<std::size_t>(size, 10), flags);
    };
    accepted_client().send(pattern(100));
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 100; }));
}

TEST_F(FlowTest, EqualMarksWithThatMuchUnsentDoNotSpin) {
    constexpr std::size_t mark = 1000;
    make_loop({.high_water = mark, .low_water = mark});
    hooks.read = [](Conn&) {};  // half a message
    Client& client = accepted_client();
    client.send("half");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    kernel.send = [](int, const void*, std::size_t, int) { return fail_with(EAGAIN); };
    last_conn()->write(std::string(mark, 'x'));
    turn(2);
    client.send(" a message");
    int impatient = 0;
    kernel.epoll_wait = [&](int epoll, epoll_event* events, int most, int timeout) {
        impatient += timeout == 0;
        int count = real::epoll_wait(epoll, events, most, 1);
        for (int i = 0; i < count; ++i) impatient += (events[i].events & EPOLLIN) != 0;
        return 0;
    };
    turn(20);
    EXPECT_EQ(impatient, 0);
    EXPECT_EQ(hooks.reads, 1);
}

TEST_F(FlowTest, PendingOutputDoesNotWakeTheLoop) {
    hooks.read = [](Conn& conn) {
        conn.consume(conn.input().size());
        conn.write(std::string(8 << 20, 'x'));
    };
    Client& client = slow_client();
    EXPECT_TRUE(rests());
    receiving = true;
    EXPECT_TRUE(turn_until([&] { return client.bytes.size() == 8 << 20; }));
    EXPECT_TRUE(rests()) << "EPOLLOUT is still armed";
}

TEST_F(FlowTest, NoInputIsOfferedAboveTheMarkWhoeverHasWritten) {
    make_loop({.high_water = 1000, .low_water = 10});
    kernel.send = [](int, const void*, std::size_t, int) { return fail_with(EAGAIN); };
    accepted_client();
    accepted_client();
    turn(3);
    hooks.read = [&](Conn& conn) {
        take_all(conn);
        for (const Conn* other : hooks.open) loop().conn(other->id())->write(pattern(1000));
    };
    int recvs = 0;
    kernel.recv = [&](int fd, void* bytes, std::size_t size, int flags) {
        ++recvs;
        return real::recv(fd, bytes, size, flags);
    };
    for (auto& client : clients) client->send("x");
    turn(10);
    EXPECT_EQ(hooks.reads, 1);
    EXPECT_EQ(recvs, 1) << "nor is it read";
}

TEST_F(FlowTest, NoInputThatIsLeftIsOfferedAboveTheMark) {
    make_loop({.high_water = 1000, .low_water = 10});
    kernel.send = [](int, const void*, std::size_t, int) { return fail_with(EAGAIN); };
    accepted_client();
    accepted_client();
    hooks.read = [](Conn& conn) { conn.consume(1); };
    for (auto& client : clients) client->send("xxxxx");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 2; }));
    hooks.read = [&](Conn& conn) {
        conn.consume(1);
        for (const Conn* other : hooks.open) loop().conn(other->id())->write(pattern(1000));
    };
    turn(10);
    EXPECT_EQ(hooks.reads, 3);
}

// ---- hold and release --------------------------------------------------------------------------

TEST_F(FlowTest, HoldKeepsInputBackUntilRelease) {
    hooks.read = [](Conn& conn) {
        conn.consume(1);
        conn.hold();
        EXPECT_EQ(conn.input(), "");
    };
    Client& client = accepted_client();
    Conn* conn = last_conn();
    client.send("abc");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    client.send("def");
    EXPECT_TRUE(rests());
    EXPECT_EQ(hooks.reads, 1);
    std::string rest;
    hooks.read = [&](Conn& c) {
        rest += c.input();
        c.consume(c.input().size());
    };
    conn->release();
    EXPECT_TRUE(turn_until([&] { return rest == "bcdef"; }));
}

TEST_F(FlowTest, WhatIsConsumedAfterReleaseIsNotOffered) {
    hooks.read = [](Conn& conn) { conn.hold(); };
    accepted_client().send("abc");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    last_conn()->release();
    last_conn()->consume(3);
    turn(5);
    EXPECT_EQ(hooks.reads, 1);
}

TEST_F(FlowTest, AMessageThatWaitsForItsAnswerIsOfferedAgainWithTheRelease) {
    hooks.read = [](Conn& conn) { conn.hold(); };
    accepted_client().send("abc");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    hooks.read = {};
    last_conn()->release();
    EXPECT_TRUE(turn_until([&] { return clients[0]->bytes == "abc"; }));
}

TEST_F(FlowTest, AHeldConnectionOutlivesTheEndOfItsInput) {
    hooks.read = [](Conn& conn) {
        conn.consume(conn.input().size());
        conn.hold();
    };
    Client& client = accepted_client();
    Conn* conn = last_conn();
    client.send("job");
    client.half_close();
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    EXPECT_TRUE(rests());
    EXPECT_EQ(hooks.closed, 0);
    conn->write("done");
    conn->release();
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(client.bytes, "done");
    EXPECT_TRUE(client.ended());
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
}

// EPOLLHUP and EPOLLERR cannot be masked: they come without being waited for. on_close() is where a
// server cancels the job, and the number of its connection finds nobody any more.
TEST_F(FlowTest, AHeldConnectionThatIsResetIsOverAtOnce) {
    hooks.read = [](Conn& conn) {
        conn.consume(3);
        conn.hold();
    };
    std::string left;
    hooks.close = [&](Conn& conn) { left = conn.input(); };
    Client& client = accepted_client();
    std::uint64_t id = last_conn()->id();
    client.send("job, and half of ano");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    EXPECT_TRUE(rests());
    client.reset();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{ECONNRESET});
    EXPECT_EQ(left, ", and half of ano");
    EXPECT_EQ(loop().conn(id), nullptr);
    EXPECT_TRUE(rests());
}

// A write has met the reset and taken its error. What epoll still reports is EPOLLHUP alone.
TEST_F(FlowTest, AHeldConnectionWhoseWriteMetTheResetIsOverAtOnce) {
    hooks.read = [](Conn& conn) { conn.hold(); };
    Client& client = accepted_client();
    client.send("job");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    client.reset();
    last_conn()->write("ten percent are done");  // sent by the settle of the turn before the event
    kernel.epoll_wait = [](int, epoll_event*, int, int) { return 0; };
    turn();
    kernel.epoll_wait = {};
    EXPECT_EQ(hooks.closed, 0);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{ECONNRESET});
    EXPECT_TRUE(rests());
}
