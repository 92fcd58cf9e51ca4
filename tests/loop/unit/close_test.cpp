// How a connection ends: by us, by the client, by an error.

#include "loop_fixture.h"

class CloseTest : public LoopTest {};

TEST_F(CloseTest, CloseSendsWhatIsQueuedFirst) {
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

TEST_F(CloseTest, CloseWithUnreadInputDoesNotDestroyTheReply) {
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

TEST_F(CloseTest, LingeringEndsAtTheDrainDeadline) {
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
TEST_F(CloseTest, WhatIsThrownAwayIsProgressUpToABound) {
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

TEST_F(CloseTest, AClientThatDoesNotReadIsGivenUpAtTheDrainDeadline) {
    make_loop({.drain = 5000ms});
    hooks.read = [](Conn& conn) {
        conn.write(std::string(8 << 20, 'x'));
        conn.close();
    };
    Client& client = slow_client();
    EXPECT_TRUE(rests());
    pass(6000ms);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
    client.receive();
    EXPECT_EQ(client.error(), ECONNRESET) << "a cut stream must not look like a whole one";
}

// It sends all the while, and what it sends is thrown away. That is no progress of the answer.
TEST_F(CloseTest, AClientThatOnlySendsIsGivenUpAtTheDrainDeadline) {
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

TEST_F(CloseTest, HoldAfterCloseDoesNotStopTheDrainDeadline) {
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

TEST_F(CloseTest, ReleaseWithoutHoldDoesNotStopTheDrainDeadline) {
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

TEST_F(CloseTest, ReleaseAfterCloseDoesNotStopTheDrainDeadline) {
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

TEST_F(CloseTest, ConsumeAfterCloseIsHarmless) {
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

TEST_F(CloseTest, AbortWithUnsentBytesIsAReset) {
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

TEST_F(CloseTest, OnCloseComesOnceWhoeverAndHoweverManyEndIt) {
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

TEST_F(CloseTest, EverythingMayBeCalledInOnClose) {
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
TEST_F(CloseTest, InOnCloseTheConnectionIsStillThatOfItsDescriptor) {
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
TEST_F(CloseTest, ClosedByAnotherInTheSameBatchIsNotCalledAgain) {
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

// A client that has reset, and whose bytes are still being taken: an end is in sight.
TEST_F(CloseTest, NothingIsTakenFromAZombieBeyondWhatHadCome) {
    hooks.read = [&](Conn& conn) {
        take_all(conn);
        conn.write("answer");
    };
    std::string sent = pattern(300'000);
    int endless = 0;
    kernel.recv = [&](int fd, void* bytes, std::size_t size, int flags) -> ssize_t {
        ssize_t n = real::recv(fd, bytes, size, flags);
        return n > 0 || ++endless > 100 ? n : fail_with(EAGAIN);
    };
    kernel.send = [](int, const void*, std::size_t, int) { return fail_with(EPIPE); };
    Client& client = accepted_client();
    client.send(sent);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{EPIPE});
    EXPECT_LE(endless, 1);
}

TEST_F(CloseTest, NothingIsSentBehindAnError) {
    int sends = 0;
    kernel.send = [&](int, const void*, std::size_t, int) {
        ++sends;
        return fail_with(EPIPE);
    };
    accepted_client();
    last_conn()->write(std::string(100'000, 'x'));
    last_conn()->write(std::string(100'000, 'x'));
    last_conn()->write("and this");
    EXPECT_EQ(last_conn()->unsent(), 0u);
    turn(3);
    EXPECT_EQ(sends, 1);
}

TEST_F(CloseTest, TheFirstErrorIsTheReason) {
    kernel.send = [](int, const void*, std::size_t, int) { return fail_with(ECONNRESET); };
    accepted_client();
    last_conn()->write(std::string(100'000, 'x'));
    last_conn()->abort();
    turn();
    EXPECT_EQ(hooks.errors, std::vector{ECONNRESET});
}

TEST_F(CloseTest, WhatWasLeftIsSeenInOnClose) {
    hooks.read = [](Conn&) {};
    std::string left;
    hooks.close = [&](Conn& conn) { left = conn.input(); };
    Client& client = accepted_client();
    client.send("half a mess");
    client.half_close();
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    client.close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(left, "half a mess");
}

TEST_F(CloseTest, AbortBehindWhatTheKernelHasTakenIsAReset) {
    hooks.read = [](Conn& conn) {
        take_all(conn);
        conn.write(std::string(20'000, 'x'));
        EXPECT_EQ(conn.unsent(), 0u);
        conn.abort();
    };
    Client& client = accepted_client();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(client.error(), ECONNRESET);
}
