// Connections: reading, writing, closing, limits.

#include "allocations.h"
#include "loop_fixture.h"

#include <csignal>
#include <sys/resource.h>

namespace {

// Takes messages of `size` bytes, one per call, and echoes them.
void echo_one(Conn& conn, std::size_t size) {
    if (conn.input().size() < size) return;
    conn.write(conn.input().substr(0, size));
    conn.consume(size);
}

}  // namespace

class ConnTest : public LoopTest {};

TEST_F(ConnTest, EchoesInOrder) {
    Client& client = accepted_client();
    std::string sent = pattern(100'000);
    for (std::size_t i = 0; i < sent.size(); i += 1000) {
        client.send(sent.substr(i, 1000));
        turn();
    }
    EXPECT_TRUE(turn_until([&] { return client.bytes.size() == sent.size(); }));
    EXPECT_EQ(client.bytes, sent);
}

// The example at the head of evloop.h, word for word: it must echo each byte once, even to a client
// that lets the output grow to the high-water mark.
TEST_F(ConnTest, TheExampleInTheHeaderEchoesEachByteOnce) {
    make_loop({.high_water = 10'000, .low_water = 5'000});
    hooks.read = [](Conn& conn) {
        conn.write(conn.input());
        conn.consume(conn.input().size());
    };
    Client& client = accepted_client(4096);
    std::string sent = pattern(12 << 20);
    std::size_t done = 0;
    receiving = false;
    for (int quiet = 0; quiet < 100; ++quiet) {  // until the loop has paused
        std::size_t n = client.send_some(std::string_view(sent).substr(done));
        done += n;
        if (n > 0) quiet = 0;
        turn();
    }
    receiving = true;
    EXPECT_TRUE(turn_until([&] {
        done += client.send_some(std::string_view(sent).substr(done));
        return client.bytes.size() >= sent.size();
    }));
    turn(20);
    EXPECT_EQ(client.bytes.size(), sent.size());
    EXPECT_TRUE(client.bytes == sent);
}

TEST_F(ConnTest, OneByteReadsAndShortWritesChangeNothing) {
    kernel.recv = [](int fd, void* bytes, std::size_t, int flags) {
        return real::recv(fd, bytes, 1, flags);
    };
    kernel.send = [](int fd, const void* bytes, std::size_t, int flags) {
        return real::send(fd, bytes, 1, flags);
    };
    Client& client = accepted_client();
    std::string sent = pattern(3000);
    client.send(sent);
    EXPECT_TRUE(turn_until([&] { return client.bytes.size() == sent.size(); }));
    EXPECT_EQ(client.bytes, sent);
    EXPECT_EQ(hooks.reads, 3000);
}

TEST_F(ConnTest, EintrAndEagainInEveryCallChangeNothing) {
    int call = 0;
    auto error = [&call] { return ++call % 3 == 1 ? EINTR : ++call % 3 == 2 ? EAGAIN : 0; };
    kernel.recv = [&](int fd, void* bytes, std::size_t size, int flags) -> ssize_t {
        if (int e = error()) return fail_with(e);
        return real::recv(fd, bytes, std::min<std::size_t>(size, 1000), flags);
    };
    kernel.send = [&](int fd, const void* bytes, std::size_t size, int flags) -> ssize_t {
        if (int e = error()) return fail_with(e);
        return real::send(fd, bytes, std::min<std::size_t>(size, 700), flags);
    };
    kernel.accept4 = [&](int fd, sockaddr* address, socklen_t* length, int flags) {
        if (int e = error()) return fail_with(e);
        return real::accept4(fd, address, length, flags);
    };
    Client& client = accepted_client();
    std::string sent = pattern(100'000);
    client.send(sent);
    client.half_close();
    EXPECT_TRUE(turn_until([&] { return client.over() && hooks.closed == 1; }));
    EXPECT_EQ(client.bytes, sent);
    EXPECT_TRUE(client.ended());
    EXPECT_EQ(hooks.errors, std::vector{0});
}

TEST_F(ConnTest, EpollWaitInterruptedGoesOn) {
    int storm = 0;
    kernel.epoll_wait = [&](int epoll, epoll_event* events, int most, int timeout) {
        if (++storm % 2 == 0) return fail_with(EINTR);
        return real::epoll_wait(epoll, events, most, timeout < 0 ? 5 : std::min(timeout, 5));
    };
    Client& client = accepted_client();
    client.send("still there?");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "still there?"; }));
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(loop().turn());
}

// ---- the end of input --------------------------------------------------------------------------

TEST_F(ConnTest, ClosedByTheClientIsClosed) {
    Client& client = accepted_client();
    client.close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{0});
    EXPECT_EQ(loop().connections(), 0u);
}

TEST_F(ConnTest, DataTogetherWithFinIsReadFirst) {
    Client& client = accepted_client();
    client.send("data");
    client.half_close();
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(client.bytes, "data");
    EXPECT_TRUE(client.ended());
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
}

TEST_F(ConnTest, DataBeforeResetIsRead) {
    std::string got;
    hooks.read = [&](Conn& conn) {
        got += conn.input();
        conn.consume(conn.input().size());
    };
    Client& client = accepted_client();
    client.send("data, then a reset");
    client.reset();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(got, "data, then a reset");
    EXPECT_EQ(hooks.errors, std::vector{ECONNRESET});
}

// The client's data and its reset are there when our answer fails: what it had sent still counts.
TEST_F(ConnTest, DataBeforeResetIsReadAlsoWhenTheWriteFailsFirst) {
    std::string got;
    hooks.read = [&](Conn& conn) {
        got += conn.input();
        conn.consume(conn.input().size());
        conn.write("answer");
    };
    hooks.tick = [&] {
        if (Conn* conn = last_conn()) conn->write("unasked");
    };
    Client& client = accepted_client();
    std::string sent = pattern(100'000);  // more than one recv() takes, less than the window
    client.send(sent);
    client.reset();
    pass(1000ms);  // the tick comes in the first turn, and its write meets the reset
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(got.size(), sent.size());
    EXPECT_TRUE(got == sent);
    EXPECT_EQ(hooks.accepted, hooks.closed);
}

TEST_F(ConnTest, HalfClosedClientGetsEveryByteHoweverSlowlyItReads) {
    Client& client = accepted_client(16 << 10);
    std::string sent = pattern(8 << 20);
    std::size_t done = 0;
    receiving = false;
    EXPECT_TRUE(turn_until([&] {
        std::size_t n = client.send_some(std::string_view(sent).substr(done));
        done += n;
        if (n == 0) client.receive(30'000);
        return done == sent.size();
    }));
    client.half_close();
    EXPECT_TRUE(turn_until([&] {
        client.receive(30'000);
        return client.over();
    }));
    EXPECT_TRUE(client.ended());
    EXPECT_EQ(client.bytes.size(), sent.size());
    EXPECT_TRUE(client.bytes == sent);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{0});
}

TEST_F(ConnTest, FinThenTwoWritesIsNoSignal) {
    hooks.read = [](Conn& conn) { conn.consume(conn.input().size()), conn.hold(); };
    Client& client = accepted_client();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    last_conn()->release();
    last_conn()->hold();
    client.close();
    last_conn()->write("one");
    last_conn()->write(std::string(100'000, '2'));
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
}

// ---- our close ---------------------------------------------------------------------------------

TEST_F(ConnTest, CloseSendsWhatIsQueuedFirst) {
    std::string reply = pattern(3 << 20);
    hooks.read = [&](Conn& conn) {
        conn.write(reply);
        conn.close();
        conn.write("too late");
    };
    Client& client = accepted_client(16 << 10);
    client.send("go");
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_TRUE(client.ended());
    EXPECT_EQ(client.bytes.size(), reply.size());
    client.close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{0});
}

TEST_F(ConnTest, CloseWithUnreadInputDoesNotDestroyTheReply) {
    std::string reply = pattern(300'000);
    hooks.read = [&](Conn& conn) {
        conn.write(reply);
        conn.close();
    };
    Client& client = accepted_client();
    receiving = false;
    client.send(pattern(500'000));  // most of it unread when the server closes
    turn(20);
    client.send_some("more that nobody reads");
    turn(20);
    receiving = true;
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(client.error(), 0) << "a reset has overtaken the reply";
    EXPECT_EQ(client.bytes.size(), reply.size());
    EXPECT_EQ(hooks.closed, 0) << "it lingers until the client has closed too";
    client.close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
}

TEST_F(ConnTest, LingeringEndsAtTheDrainDeadline) {
    make_loop({.tick = 1000ms, .drain = 5000ms});
    hooks.read = [](Conn& conn) { conn.close(); };
    Client& client = accepted_client();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    pass(4900ms);
    turn(5);
    EXPECT_EQ(hooks.closed, 0);
    pass(1100ms);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{0});
}

// Who uploads slowly what nobody wants gets the answer all the same: bytes that come are progress.
// But not for ever.
TEST_F(ConnTest, WhatIsThrownAwayIsProgressUpToABound) {
    make_loop({.tick = 1000ms, .drain = 5000ms, .linger = 20'000ms});
    hooks.read = [](Conn& conn) { conn.close(); };
    Client& client = accepted_client();
    client.send("upload");
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    for (int s = 0; s < 19; ++s) {
        pass(1000ms);
        client.send_some("more");
        turn(3);
        ASSERT_EQ(hooks.closed, 0) << "after " << s << " s";
    }
    pass(1000ms);
    client.send_some("more");
    turn(3);
    EXPECT_EQ(hooks.errors, std::vector{0});
}

TEST_F(ConnTest, AClientThatDoesNotReadIsGivenUpAtTheDrainDeadline) {
    make_loop({.drain = 5000ms});
    hooks.read = [](Conn& conn) {
        conn.write(std::string(8 << 20, 'x'));
        conn.close();
    };
    Client& client = accepted_client(4096);
    receiving = false;
    client.send("go");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    EXPECT_TRUE(rests());
    pass(6000ms);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
    client.receive();
    EXPECT_EQ(client.error(), ECONNRESET) << "a cut stream must not look like a whole one";
}

// It sends all the while, and what it sends is thrown away. That is no progress of the answer.
TEST_F(ConnTest, AClientThatOnlySendsIsGivenUpAtTheDrainDeadline) {
    make_loop({.tick = 1000ms, .drain = 5000ms, .linger = 20'000ms});
    hooks.read = [](Conn& conn) {
        conn.write(std::string(8 << 20, 'x'));
        conn.close();
    };
    int taken = 0;  // bytes
    kernel.recv = [&](int fd, void* bytes, std::size_t size, int flags) {
        ssize_t n = real::recv(fd, bytes, size, flags);
        taken += std::max<ssize_t>(n, 0);
        return n;
    };
    Client& client = accepted_client(4096);
    receiving = false;
    for (int s = 0; s < 10; ++s) {
        client.send_some("x");
        ASSERT_TRUE(turn_until([&] { return taken > s || hooks.closed == 1; }));
        pass(1000ms);
    }
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

TEST_F(ConnTest, HoldAfterCloseDoesNotStopTheDrainDeadline) {
    make_loop({.drain = 5000ms});
    hooks.read = [](Conn& conn) {
        conn.close();
        conn.hold();
    };
    Client& client = accepted_client();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    pass(6000ms);
    turn(5);
    EXPECT_EQ(hooks.closed, 1);
}

TEST_F(ConnTest, ReleaseWithoutHoldDoesNotStopTheDrainDeadline) {
    make_loop({.tick = 1000ms, .drain = 5000ms});
    accepted_client();
    Conn* conn = last_conn();
    conn->close();
    hooks.tick = [&] {
        if (hooks.closed == 0) conn->release();
    };
    for (int i = 0; i < 7; ++i) {
        pass(1000ms);
        loop().turn();  // the client does not look, and so does not close
    }
    EXPECT_EQ(hooks.closed, 1);
}

TEST_F(ConnTest, ReleaseAfterCloseDoesNotStopTheDrainDeadline) {
    make_loop({.tick = 1000ms, .drain = 5000ms});
    accepted_client();
    kernel.send = [](int, const void*, std::size_t, int) { return fail_with(EAGAIN); };
    Conn* conn = last_conn();
    conn->hold();
    conn->write("x");
    conn->close();
    turn();
    for (int s = 0; s < 6; ++s) {
        if (s == 4) conn->release();
        pass(1000ms);
        turn(3);
    }
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

TEST_F(ConnTest, ConsumeAfterCloseIsHarmless) {
    hooks.read = [](Conn& conn) {
        std::size_t size = conn.input().size();
        conn.write(conn.input());
        conn.close();
        conn.consume(size);
    };
    Client& client = accepted_client();
    client.send("bye");
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(client.bytes, "bye");
}

TEST_F(ConnTest, AbortWithUnsentBytesIsAReset) {
    hooks.read = [](Conn& conn) {
        conn.write("half an answ");
        conn.abort();
    };
    Client& client = accepted_client();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(client.error(), ECONNRESET);
    EXPECT_EQ(client.bytes, "");
    EXPECT_EQ(hooks.errors, std::vector{ECONNABORTED});
}

TEST_F(ConnTest, RejectedClientHasNoOnClose) {
    hooks.accept = [](Conn&) { return false; };
    Client& client = add_client();
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(hooks.closed, 0);
    EXPECT_EQ(loop().connections(), 0u);
}

TEST_F(ConnTest, OnCloseComesOnceWhoeverAndHoweverManyEndIt) {
    hooks.read = [](Conn& conn) {
        conn.close();
        conn.abort();
        conn.close();
        conn.abort();
    };
    Client& client = accepted_client();
    client.send("x");
    client.reset();
    EXPECT_TRUE(turn_until([&] { return hooks.closed > 0; }));
    turn(20);
    EXPECT_EQ(hooks.closed, 1);
}

TEST_F(ConnTest, EverythingMayBeCalledInOnClose) {
    hooks.close = [&](Conn& conn) {
        conn.write(std::string(100'000, 'x'));
        conn.write("small");
        conn.hold();
        conn.release();
        conn.close();
        conn.abort();
        conn.consume(0);
        conn.state.reset();
        EXPECT_EQ(conn.input(), "");
        loop().remove_fd(conn.fd());
        for (const Conn* other : hooks.open) loop().conn(other->id())->abort();
    };
    for (int i = 0; i < 10; ++i) accepted_client();
    clients[4]->close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 10; }));
    EXPECT_TRUE(rests());
    EXPECT_EQ(hooks.closed, 10);
}

// Its descriptor is open until then, so its number is that of nobody else.
TEST_F(ConnTest, InOnCloseTheConnectionIsStillThatOfItsDescriptor) {
    hooks.close = [&](Conn& conn) {
        EXPECT_EQ(loop().conn(conn.id()), &conn);
        EXPECT_FALSE(loop().add_fd(conn.fd(), EPOLLIN));
        EXPECT_EQ(errno, EEXIST);
    };
    accepted_client();
    std::uint64_t id = last_conn()->id();
    clients[0]->close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(loop().conn(id), nullptr);
}

// A hook may close any connection, those included for which an event is in the same batch.
TEST_F(ConnTest, ClosedByAnotherInTheSameBatchIsNotCalledAgain) {
    for (int i = 0; i < 10; ++i) accepted_client();
    turn(5);
    hooks.read = [&](Conn& conn) {
        for (const Conn* other : hooks.open)
            if (other != &conn) loop().conn(other->id())->abort();
        echo(conn);
    };
    for (auto& client : clients) client->send("all in one batch");
    turn();
    EXPECT_EQ(hooks.reads, 1);
    EXPECT_EQ(hooks.closed, 9);
    EXPECT_TRUE(turn_until([&] { return clients[0]->over() || !clients[0]->bytes.empty(); }));
}

// ---- what is left in the input -----------------------------------------------------------------

TEST_F(ConnTest, MessagesLeftInTheInputAreOfferedAgainWithoutTraffic) {
    hooks.read = [](Conn& conn) { echo_one(conn, 10); };
    Client& client = accepted_client();
    std::string sent = pattern(10'000);  // a thousand messages in one segment
    client.send(sent);
    EXPECT_TRUE(turn_until([&] { return client.bytes.size() == sent.size(); }));
    EXPECT_EQ(client.bytes, sent);
    EXPECT_EQ(hooks.reads, 1000);
    EXPECT_TRUE(rests());
}

TEST_F(ConnTest, MessagesLeftBehindAFinAreAnsweredToo) {
    hooks.read = [](Conn& conn) { echo_one(conn, 10); };
    Client& client = accepted_client();
    client.send(pattern(1005));
    client.half_close();
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(client.bytes, pattern(1000));
    EXPECT_TRUE(client.ended());
}

TEST_F(ConnTest, AnIncompleteMessageWaitsForMoreWithoutSpinning) {
    hooks.read = [](Conn& conn) { echo_one(conn, 10); };
    Client& client = accepted_client();
    client.send("12345");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    EXPECT_TRUE(rests());
    EXPECT_EQ(hooks.reads, 1);
    client.send("67890");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "1234567890"; }));
}

TEST_F(ConnTest, MoreThanTheCapOfInputIsEmsgsize) {
    make_loop({.max_input = 1000});
    hooks.read = [](Conn& conn) { EXPECT_LE(conn.input().size(), 1000u); };
    Client& client = accepted_client();
    client.send(pattern(999));
    turn(20);
    EXPECT_EQ(hooks.closed, 0);
    client.send("xyz");
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{EMSGSIZE});
}

// ---- fairness ----------------------------------------------------------------------------------

TEST_F(ConnTest, OneRecvPerConnectionAndTurn) {
    std::map<int, int> recvs;
    kernel.recv = [&](int fd, void* bytes, std::size_t size, int flags) {
        ++recvs[fd];
        return real::recv(fd, bytes, size, flags);
    };
    std::size_t largest = 0;
    hooks.read = [&](Conn& conn) {
        largest = std::max(largest, conn.input().size());
        conn.consume(conn.input().size());
    };
    for (int i = 0; i < 3; ++i) accepted_client();
    for (auto& client : clients) client->send_some(pattern(4 << 20));
    for (int i = 0; i < 20; ++i) {
        recvs.clear();
        turn();
        for (auto [fd, count] : recvs) EXPECT_EQ(count, 1);
    }
    EXPECT_LE(largest, 64u << 10);
}

// One client has sent 4 MB, another a byte, before the loop looks. The other is served in this
// turn.
TEST_F(ConnTest, AFastSenderDelaysOthersByOneTurn) {
    Client& fast = accepted_client();
    Client& slow = accepted_client();
    turn(5);
    std::size_t taken = 0;
    hooks.read = [&](Conn& conn) {
        if (conn.input().size() > 1) taken += conn.input().size();
        echo(conn);
    };
    fast.send_some(pattern(4 << 20));
    slow.send("x");
    EXPECT_TRUE(turn_until([&] { return slow.bytes == "x"; }));
    EXPECT_LE(taken, 3u * 64 << 10);
}

// ---- water marks -------------------------------------------------------------------------------

TEST_F(ConnTest, HighWaterPausesReadingAndLowWaterResumes) {
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
TEST_F(ConnTest, HighWaterPausesParsingAndLowWaterOffersTheRest) {
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

TEST_F(ConnTest, ALowWaterMarkOfZeroIsReached) {
    make_loop({.high_water = 1000, .low_water = 0});
    Client& client = accepted_client();
    for (int i = 1; i <= 3; ++i) {
        client.send(pattern(2000));
        EXPECT_TRUE(turn_until([&] { return client.bytes.size() == i * 2000u; }));
    }
}

// What can be offered is not added to: a client that sends fast costs no memory beyond one recv().
TEST_F(ConnTest, NothingIsReceivedWhileInputIsLeft) {
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

TEST_F(ConnTest, EqualMarksWithThatMuchUnsentDoNotSpin) {
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

TEST_F(ConnTest, PendingOutputDoesNotWakeTheLoop) {
    hooks.read = [](Conn& conn) {
        conn.consume(conn.input().size());
        conn.write(std::string(8 << 20, 'x'));
    };
    Client& client = accepted_client(4096);
    receiving = false;
    client.send("go");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    EXPECT_TRUE(rests());
    receiving = true;
    EXPECT_TRUE(turn_until([&] { return client.bytes.size() == 8 << 20; }));
    EXPECT_TRUE(rests()) << "EPOLLOUT is still armed";
}

// ---- hold and release --------------------------------------------------------------------------

TEST_F(ConnTest, HoldKeepsInputBackUntilRelease) {
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

TEST_F(ConnTest, WhatIsConsumedAfterReleaseIsNotOffered) {
    hooks.read = [](Conn& conn) { conn.hold(); };
    accepted_client().send("abc");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    last_conn()->release();
    last_conn()->consume(3);
    turn(5);
    EXPECT_EQ(hooks.reads, 1);
}

TEST_F(ConnTest, AMessageThatWaitsForItsAnswerIsOfferedAgainWithTheRelease) {
    hooks.read = [](Conn& conn) { conn.hold(); };
    accepted_client().send("abc");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    hooks.read = {};
    last_conn()->release();
    EXPECT_TRUE(turn_until([&] { return clients[0]->bytes == "abc"; }));
}

TEST_F(ConnTest, AHeldConnectionOutlivesTheEndOfItsInput) {
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
TEST_F(ConnTest, AHeldConnectionThatIsResetIsOverAtOnce) {
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
TEST_F(ConnTest, AHeldConnectionWhoseWriteMetTheResetIsOverAtOnce) {
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

// ---- deadlines ---------------------------------------------------------------------------------

TEST_F(ConnTest, IdleClientsAreClosedAtTheirDeadline) {
    make_loop({.tick = 1000ms, .idle = 10'000ms});
    Client& client = accepted_client();
    pass(9000ms);
    turn(3);
    EXPECT_EQ(hooks.closed, 0);
    client.send("I am here");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "I am here"; }));
    pass(9000ms);
    turn(3);
    EXPECT_EQ(hooks.closed, 0) << "a message counts from when it came";
    pass(1000ms);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

TEST_F(ConnTest, ADribbledMessageDoesNotHoldOffTheIdleDeadline) {
    make_loop({.tick = 1000ms, .idle = 10'000ms});
    hooks.read = [](Conn& conn) { echo_one(conn, 100); };
    Client& client = accepted_client();
    int dribbled = 0;
    EXPECT_TRUE(turn_until([&] {
        dribbled += static_cast<int>(client.send_some("x"));
        pass(1000ms);
        return hooks.closed == 1;
    }));
    EXPECT_LE(dribbled, 14);
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

TEST_F(ConnTest, AMessageTakenInTheTickIsProgress) {
    make_loop({.tick = 1000ms, .idle = 3000ms});
    hooks.read = [](Conn&) {};
    hooks.tick = [&] {
        if (hooks.closed == 0) last_conn()->consume(1);
    };
    Client& client = accepted_client();
    client.send(pattern(20));
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    for (int i = 0; i < 10; ++i) {
        pass(1000ms);
        turn(2);
    }
    EXPECT_EQ(hooks.closed, 0);
}

TEST_F(ConnTest, AHeldConnectionHasNoIdleDeadline) {
    make_loop({.tick = 1000ms, .idle = 10'000ms});
    hooks.read = [](Conn& conn) { conn.consume(1), conn.hold(); };
    Client& client = accepted_client();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    pass(60'000ms);
    turn(3);
    EXPECT_EQ(hooks.closed, 0);
    last_conn()->release();
    turn(3);
    EXPECT_EQ(hooks.closed, 0) << "the deadline counts from release()";
    pass(11'000ms);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
}

// ---- who comes in ------------------------------------------------------------------------------

// A client that only listens.
TEST_F(ConnTest, WhoIsSentSomethingIsNotIdle) {
    make_loop({.tick = 1000ms, .idle = 5000ms});
    Client& client = accepted_client();
    hooks.tick = [&] {
        if (hooks.ticks <= 20 && hooks.closed == 0) last_conn()->write("news");
    };
    for (int s = 0; s < 20; ++s) {
        pass(1000ms);
        turn(3);
    }
    EXPECT_EQ(hooks.closed, 0);
    EXPECT_TRUE(turn_until([&] { return client.bytes.size() == 20u * 4; }));
    pass(6000ms);
    turn(3);
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

TEST_F(ConnTest, TheIdleDeadlineCountsFromTheRelease) {
    make_loop({.tick = 1000ms, .idle = 5000ms});
    hooks.read = [](Conn& conn) { conn.consume(conn.input().size()), conn.hold(); };
    accepted_client().send("job");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    pass(60'000ms);
    turn(3);
    last_conn()->release();
    turn();
    pass(4000ms);
    turn(3);
    EXPECT_EQ(hooks.closed, 0);
    pass(1000ms);
    turn(3);
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

TEST_F(ConnTest, BeyondTheCapOfConnectionsClientsWaitInTheQueue) {
    make_loop({.max_connections = 2});
    for (int i = 0; i < 4; ++i) add_client().send("hello");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 2; }));
    EXPECT_TRUE(rests()) << "the full queue wakes the loop";
    EXPECT_EQ(hooks.accepted, 2);
    clients[0]->close();
    clients[1]->close();
    EXPECT_TRUE(turn_until([&] { return clients[3]->bytes == "hello"; }));
    EXPECT_EQ(hooks.accepted, 4);
}

TEST_F(ConnTest, AListenerThatCannotBeWatchedAgainIsTriedAgain) {
    make_loop({.max_connections = 1});
    Client& first = accepted_client();
    Client& second = add_client();
    int refused = 0;
    kernel.epoll_ctl = [&](int epoll, int operation, int fd, epoll_event* event) {
        if (operation == EPOLL_CTL_ADD && hooks.closed == 1 && ++refused <= 3)
            return fail_with(ENOMEM);
        return real::epoll_ctl(epoll, operation, fd, event);
    };
    first.close();
    second.send("hello");
    EXPECT_TRUE(turn_until([&] { return second.bytes == "hello"; }));
    EXPECT_GT(refused, 3);
}

// accept4() that finds nobody has made a socket for nothing: it costs more than the next turn.
TEST_F(ConnTest, OneClientIsAcceptedInATurnAndTheQueueIsNeverFoundEmpty) {
    int accepts = 0;
    kernel.accept4 = [&](int fd, sockaddr* address, socklen_t* length, int flags) {
        ++accepts;
        return real::accept4(fd, address, length, flags);
    };
    for (int i = 0; i < 200; ++i) add_client();
    EXPECT_TRUE(turn_until([&] {
        EXPECT_LE(std::exchange(accepts, 0), 1);
        return hooks.accepted == 200;
    }));
    turn(10);
    EXPECT_EQ(accepts, 0);
}

class AcceptErrorTest : public LoopTest, public testing::WithParamInterface<int> {
protected:
    AcceptErrorTest() {
        kernel.accept4 = [this](int fd, sockaddr* address, socklen_t* length, int flags) {
            if (++calls <= 3) return fail_with(GetParam());
            return real::accept4(fd, address, length, flags);
        };
        add_client();
        add_client();
    }

    int calls = 0;
};

// The error of one connection: the next in the queue is served without waiting for anything.
TEST_P(AcceptErrorTest, OfOneConnectionIsThatOfNoOther) {
    turn(5);
    EXPECT_EQ(calls, 5);
    EXPECT_EQ(hooks.accepted, 2);
}

TEST_P(AcceptErrorTest, IsNotTheEndOfTheQueueWhenTheLoopStops) {
    loop().stop();
    turn(1);
    EXPECT_GE(calls, 5);
    EXPECT_EQ(hooks.accepted, 2);
}
INSTANTIATE_TEST_SUITE_P(, AcceptErrorTest,
                         testing::Values(ECONNABORTED, EPROTO, ENETDOWN, EHOSTUNREACH, EINTR));

class OutOfResourcesTest : public LoopTest, public testing::WithParamInterface<int> {};

// The queue stays full and so "ready": the loop must not run after it, and must come back to it.
TEST_P(OutOfResourcesTest, PausesTheListenerUntilTheNextTick) {
    int calls = 0;
    bool out = true;
    kernel.accept4 = [&](int fd, sockaddr* address, socklen_t* length, int flags) {
        ++calls;
        if (out) return fail_with(GetParam());
        return real::accept4(fd, address, length, flags);
    };
    Client& client = add_client();
    client.send("hello");
    EXPECT_TRUE(turn_until([&] { return calls > 0; }));
    turn(100);
    EXPECT_EQ(calls, 1);
    pass(1000ms);
    turn(100);
    EXPECT_EQ(calls, 2) << "once a tick";
    out = false;
    pass(1000ms);
    EXPECT_TRUE(turn_until([&] { return client.bytes == "hello"; }));
}

TEST_P(OutOfResourcesTest, AConnectionThatEndsResumesAtOnce) {
    accepted_client();
    bool out = true;
    int calls = 0;
    kernel.accept4 = [&](int fd, sockaddr* address, socklen_t* length, int flags) {
        ++calls;
        if (out) return fail_with(GetParam());
        return real::accept4(fd, address, length, flags);
    };
    Client& client = add_client();
    client.send("hello");
    EXPECT_TRUE(turn_until([&] { return calls > 0; }));
    out = false;
    clients[0]->close();
    EXPECT_TRUE(turn_until([&] { return client.bytes == "hello"; }));
    EXPECT_EQ(hooks.ticks, 0) << "without waiting for a tick";
}
INSTANTIATE_TEST_SUITE_P(, OutOfResourcesTest, testing::Values(EMFILE, ENFILE, ENOBUFS, ENOMEM));

// The real thing: no descriptor is left. accept() says so even when nobody is waiting.
class FullTableTest : public LoopTest {
protected:
    FullTableTest() {
        getrlimit(RLIMIT_NOFILE, &before_);
        kernel.accept4 = [this](int fd, sockaddr* address, socklen_t* length, int flags) {
            ++accepts;
            return real::accept4(fd, address, length, flags);
        };
    }
    ~FullTableTest() override { make_room(); }

    // From here on no descriptor can be made.
    void fill() {
        Fd lowest_free{dup(0)};
        rlimit full{.rlim_cur = rlim_t(lowest_free.get()), .rlim_max = before_.rlim_max};
        setrlimit(RLIMIT_NOFILE, &full);
    }
    void make_room() { setrlimit(RLIMIT_NOFILE, &before_); }

    rlimit before_;
    int accepts = 0;
};

TEST_F(FullTableTest, NeitherSpinsNorHangs) {
    Client& first = accepted_client();
    Client& second = add_client();
    Client& third = add_client();
    second.send("second");
    third.send("third");
    fill();
    accepts = 0;
    turn(50);
    EXPECT_EQ(accepts, 1);
    for (int tick = 0; tick < 20; ++tick) pass(1000ms), turn(5);
    EXPECT_EQ(accepts, 21) << "once a tick";
    first.close();  // frees one of ours, and the loop's end of it frees another
    EXPECT_TRUE(turn_until([&] { return second.bytes == "second" && third.bytes == "third"; }));
}

TEST_F(FullTableTest, ResumesAlsoWhenTheQueueWasEmpty) {
    Client& first = accepted_client();
    Client& second = add_client();
    fill();
    EXPECT_TRUE(turn_until([&] { return accepts > 1; }));
    second.reset();  // it gives up; nobody is in the queue but its remains
    turn(20);
    first.close();
    turn(20);
    make_room();
    Client& later = add_client();
    later.send("later");
    EXPECT_TRUE(turn_until([&] { return later.bytes == "later"; }));
}

// epoll(7), max_user_watches.
TEST_F(ConnTest, NoSpaceInEpollClosesThatConnectionWithTheError) {
    Client& first = accepted_client();
    turn();
    bool full = true;
    kernel.epoll_ctl = [&](int epoll, int operation, int fd, epoll_event* event) {
        if (full && operation == EPOLL_CTL_ADD) return fail_with(ENOSPC);
        return real::epoll_ctl(epoll, operation, fd, event);
    };
    Client& second = add_client();
    EXPECT_TRUE(turn_until([&] { return second.over(); }));
    EXPECT_EQ(hooks.errors, std::vector{ENOSPC});
    EXPECT_EQ(hooks.accepted, 2);
    full = false;
    Client& third = add_client();
    first.send("first");
    third.send("third");
    EXPECT_TRUE(turn_until([&] { return first.bytes == "first" && third.bytes == "third"; }));
}

TEST_F(ConnTest, AThousandResetBeforeAcceptHarmNobody) {
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < 100; ++i) Client(address).reset();
        turn(5);
    }
    Client& client = accepted_client();
    client.send("alive");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "alive" && loop().connections() == 1; }));
    EXPECT_EQ(hooks.accepted, hooks.closed + 1);
}

TEST_F(ConnTest, OutOfBandByteIsHarmless) {
    Client& client = accepted_client();
    client.send("a");
    real::send(client.fd(), "!", 1, MSG_OOB);
    client.send("b");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "ab"; }));
    EXPECT_TRUE(rests());
}

TEST_F(ConnTest, KnowsItsPeerItsLoopAndItsId) {
    hooks.accept = [](Conn& conn) { return conn.state = 1, true; };
    Client& client = accepted_client();
    Conn* conn = last_conn();
    EXPECT_EQ(conn->peer(), to_string(local_address(client.fd())));
    EXPECT_EQ(&conn->loop(), &loop());
    EXPECT_EQ(loop().conn(conn->id()), conn);
    EXPECT_EQ(std::any_cast<int>(conn->state), 1);
    std::uint64_t id = conn->id();
    client.close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    accepted_client();
    EXPECT_NE(last_conn()->id(), id);
    EXPECT_EQ(loop().conn(id), nullptr) << "the number is used again, the id is not";
    EXPECT_EQ(loop().conn(0), nullptr);
    EXPECT_EQ(loop().conn(UINT64_MAX), nullptr);
    EXPECT_EQ(loop().conn(100'000), nullptr);
}
