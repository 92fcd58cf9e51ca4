// Connections that we begin.

#include "loop_fixture.h"

#include <fcntl.h>
#include <thread>

class ConnectTest : public LoopTest {
protected:
    // A listener that never accepts; `backlog` as for listen(2).
    Fd server(const std::string& host = "127.0.0.1") {
        Options options = any_port(host);
        Fd listener = listen_on(options, SOCK_NONBLOCK);
        to = options.address;
        return listener;
    }
    Fd accept_one(const Fd& listener) {
        Fd accepted;
        EXPECT_TRUE(turn_until([&] {
            accepted = Fd{::accept(listener.get(), nullptr, nullptr)};
            return bool(accepted);
        }));
        return accepted;
    }
    Address to;
};

TEST_F(ConnectTest, IsReportedOnceAndThenLikeAnyOther) {
    for (const char* host : {"127.0.0.1", "::1"}) {
        if (!is_local(host)) GTEST_SKIP() << "this machine has no " << host;
        hooks.connected = hooks.closed = 0;
        Fd listener = server(host);
        Conn* conn = loop().connect(to);
        ASSERT_NE(conn, nullptr);
        EXPECT_EQ(conn->peer(), to_string(to));
        EXPECT_TRUE(turn_until([&] { return hooks.connected == 1; }));
        Fd peer = accept_one(listener);
        EXPECT_TRUE(rests());
        real::send(peer.get(), "ping", 4, 0);
        char room[10];
        EXPECT_TRUE(
            turn_until([&] { return real::recv(peer.get(), room, 10, MSG_DONTWAIT) == 4; }));
        peer = Fd{};
        EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
        EXPECT_EQ(hooks.connected, 1);
        EXPECT_EQ(hooks.errors.back(), 0);
    }
}

TEST_F(ConnectTest, HasNoDelay) {
    int on = 0;
    socklen_t length = sizeof on;
    getsockopt(loop().connect(address)->fd(), IPPROTO_TCP, TCP_NODELAY, &on, &length);
    EXPECT_NE(on, 0);
}

TEST_F(ConnectTest, WritingMayBeginAtOnce) {
    Fd listener = server();
    std::string sent = pattern(100'000);
    loop().connect(to)->write(sent);
    Fd peer = accept_one(listener);
    std::string got(sent.size(), '\0');
    std::size_t done = 0;
    EXPECT_TRUE(turn_until([&] {
        ssize_t n = real::recv(peer.get(), got.data() + done, got.size() - done, MSG_DONTWAIT);
        if (n > 0) done += n;
        return done == sent.size();
    }));
    EXPECT_TRUE(got == sent);
}

TEST_F(ConnectTest, RefusedIsOneOnCloseWithTheError) {
    Fd bound{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};  // so that nobody can listen there
    Address here = *parse_address("127.0.0.1", 0);
    ASSERT_EQ(bind(bound.get(), here.data(), here.length), 0);
    ASSERT_NE(loop().connect(local_address(bound.get())), nullptr);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{ECONNREFUSED});
    EXPECT_EQ(hooks.connected, 0);
    EXPECT_TRUE(rests());
    EXPECT_EQ(hooks.closed, 1);
}

// A backlog of 0 has room for one; the handshakes of all others are left unanswered.
TEST_F(ConnectTest, TimedOutIsOneOnCloseWithTheError) {
    make_loop({.tick = 100ms, .connect = 3000ms});
    Fd listener = server();
    ASSERT_EQ(listen(listener.get(), 0), 0);
    Client fills_it(to);
    Conn* waiting = loop().connect(to);
    Conn* held = loop().connect(to);
    held->hold();
    ASSERT_NE(waiting, nullptr);
    turn(20);
    pass(2900ms);
    turn(3);
    EXPECT_EQ(hooks.closed, 0);
    pass(200ms);
    turn(3);
    EXPECT_EQ(hooks.errors, (std::vector{ETIMEDOUT, ETIMEDOUT})) << "hold() is about input";
    EXPECT_EQ(hooks.connected, 0);
}

TEST_F(ConnectTest, TheDeadlineCountsFromTheCallAndNotFromTheLastTurn) {
    make_loop({.connect = 3000ms});
    Fd listener = server();
    pass(10'000ms);  // the program did something else before it connects and runs
    ASSERT_NE(loop().connect(to), nullptr);
    EXPECT_TRUE(turn_until([&] { return hooks.connected + hooks.closed == 1; }));
    EXPECT_EQ(hooks.connected, 1);
}

TEST_F(ConnectTest, ResetRightAfterIsOneOnClose) {
    Fd listener = server();
    ASSERT_NE(loop().connect(to), nullptr);
    Fd peer{::accept(listener.get(), nullptr, nullptr)};
    if (!peer) peer = accept_one(listener);
    linger now{.l_onoff = 1, .l_linger = 0};
    setsockopt(peer.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    peer = Fd{};
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{ECONNRESET});
    EXPECT_LE(hooks.connected, 1);
}

// Both before the loop has looked for the first time: the error is that of the connection, and not
// of the attempt, and data comes first here too.
TEST_F(ConnectTest, DataBeforeAResetThatComesBeforeTheFirstTurnIsRead) {
    Fd listener = server();
    ASSERT_NE(loop().connect(to), nullptr);
    int flags = fcntl(listener.get(), F_GETFL);
    fcntl(listener.get(), F_SETFL, flags & ~O_NONBLOCK);
    Fd peer{::accept(listener.get(), nullptr, nullptr)};
    real::send(peer.get(), "bye", 3, 0);
    linger now{.l_onoff = 1, .l_linger = 0};
    setsockopt(peer.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    peer = Fd{};
    std::string got;
    hooks.read = [&](Conn& conn) {
        got += conn.input();
        conn.consume(conn.input().size());
    };
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(got, "bye");
    EXPECT_EQ(hooks.connected, 1);
    EXPECT_EQ(hooks.errors, std::vector{ECONNRESET});
}

TEST_F(ConnectTest, ImmediateFailureIsOneOnClose) {
    kernel.connect = [](int, const sockaddr*, socklen_t) { return fail_with(ENETUNREACH); };
    ASSERT_NE(loop().connect(address), nullptr);
    EXPECT_EQ(hooks.closed, 0) << "not from within connect()";
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{ENETUNREACH});
    EXPECT_EQ(hooks.connected, 0);
}

TEST_F(ConnectTest, InterruptedGoesOnAllTheSame) {
    Fd listener = server();
    kernel.connect = [](int fd, const sockaddr* address, socklen_t length) {
        real::connect(fd, address, length);
        return fail_with(EINTR);
    };
    ASSERT_NE(loop().connect(to), nullptr);
    EXPECT_TRUE(turn_until([&] { return hooks.connected == 1; }));
}

TEST_F(ConnectTest, WithoutASocketThereIsNoConnectionAndNoCall) {
    Address impossible = to;
    impossible.data()->sa_family = 200;
    EXPECT_EQ(loop().connect(impossible), nullptr);
    EXPECT_EQ(errno, EAFNOSUPPORT);
    EXPECT_TRUE(rests());
    EXPECT_EQ(hooks.closed, 0);
}

TEST_F(ConnectTest, ManyAtOnce) {
    for (int i = 0; i < 200; ++i) ASSERT_NE(loop().connect(address), nullptr);
    EXPECT_TRUE(turn_until([&] { return hooks.connected == 200 && hooks.accepted == 200; }));
    std::vector<const Conn*> all(hooks.open.begin(), hooks.open.end());
    for (const Conn* conn : all) loop().conn(conn->id())->close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 400; }));
}

TEST_F(ConnectTest, CloseBeforeItIsUp) {
    Fd listener = server();
    loop().connect(to)->close();
    Conn* other = loop().connect(to);
    other->write("never sent");
    other->abort();
    EXPECT_TRUE(turn_until([&] { return hooks.closed >= 1; }));
    listener = Fd{};
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 2; }));
}

TEST_F(ConnectTest, WhatIsWrittenBehindACloseBeforeItIsUpIsNotSent) {
    Fd listener = server();
    Conn* conn = loop().connect(to);
    conn->write("before");
    conn->close();
    conn->write("behind");
    Fd peer = accept_one(listener);
    std::string got;
    EXPECT_TRUE(turn_until([&] {
        char room[100];
        ssize_t n = real::recv(peer.get(), room, sizeof room, MSG_DONTWAIT);
        got.append(room, std::max<ssize_t>(n, 0));
        return n == 0;
    }));
    EXPECT_EQ(got, "before");
    peer = Fd{};
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
}

// A client that reconnects when it has lost its connection. The new descriptor may be the one for
// which the loop's tables must grow, in the middle of settle().
TEST_F(ConnectTest, AgainFromOnCloseWhileOthersAreClosing) {
    for (int i = 0; i < 30; ++i) accepted_client();
    std::vector<Fd> fill;  // so that the next descriptors are beyond the tables' size
    int again = 0;
    hooks.close = [&](Conn&) {
        if (fill.empty())
            for (int fd = 0; fd < 700;) fill.push_back(Fd{fd = dup(0)});
        if (again < 30) again += loop().connect(address) != nullptr;
    };
    for (auto& client : clients) client->reset();
    EXPECT_TRUE(turn_until([&] { return hooks.closed >= 30 && hooks.connected == 30; }));
}

TEST_F(ConnectTest, NotAfterStop) {
    accepted_client();
    loop().stop();
    turn();
    EXPECT_EQ(loop().connect(address), nullptr);
    EXPECT_EQ(errno, ECANCELED);
}
