// Connections: echo, the end of input, what is left in it, fairness.

#include "loop_fixture.h"

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

TEST_F(ConnTest, OutOfBandByteIsHarmless) {
    Client& client = accepted_client();
    client.send("a");
    real::send(client.fd(), "!", 1, MSG_OOB);
    client.send("b");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "ab"; }));
    EXPECT_TRUE(rests());
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
