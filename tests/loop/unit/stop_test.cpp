// stop(), and how long it waits for whom.

#include "loop_fixture.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

class StopTest : public LoopTest {};

TEST_F(StopTest, WithoutConnectionsEndsAtOnce) {
    loop().stop();
    loop().stop();
    loop().run();
    loop().run();
    EXPECT_EQ(hooks.accepted, 0);
}

// More than are accepted in a turn, so that the stop finds some of them in the queue.
TEST_F(StopTest, AnswersWhatWasReceivedAndServesTheQueue) {
    Client& old = accepted_client();
    Client& idle = accepted_client();
    old.send("sent before the stop");
    for (int i = 0; i < 100; ++i) add_client().send("in the accept queue");
    loop().stop();
    kernel.time_flies = true;  // the one that says nothing gets its grace
    EXPECT_TRUE(run_to_the_end());
    for (auto& client : clients) client->receive();
    EXPECT_EQ(old.bytes, "sent before the stop");
    EXPECT_TRUE(idle.ended());
    for (std::size_t i = 2; i < clients.size(); ++i) {
        EXPECT_EQ(clients[i]->bytes, "in the accept queue");
        EXPECT_TRUE(clients[i]->ended());
    }
    EXPECT_EQ(hooks.accepted, 102);
    EXPECT_EQ(hooks.closed, 102);
    EXPECT_EQ(listeners(), 0);  // and the port may be another program's
}

TEST_F(StopTest, AnswersWhatWasReceivedHoweverLargeAMessageMayBe) {
    make_loop({.max_input = SIZE_MAX});
    std::string got;
    hooks.read = [&](Conn& conn) {
        got += conn.input();
        conn.consume(conn.input().size());
    };
    Client& client = accepted_client();
    hooks.stop = [&] { client.send("sent in time"); };
    loop().stop();
    EXPECT_TRUE(run_to_the_end());
    EXPECT_EQ(got, "sent in time");
}

TEST_F(StopTest, AnswersAllThatWasReceivedHoweverSmallAMessageMayBe) {
    make_loop({.max_input = 1000});
    Client& client = accepted_client();
    std::string sent = pattern(100'000);
    client.send(sent);
    loop().stop();
    EXPECT_TRUE(run_to_the_end());
    EXPECT_TRUE(client.bytes == sent);
}

TEST_F(StopTest, WhatIsStillUnreadMakesNoReset) {
    make_loop({.drain = 1h, .grace = 1h});
    hooks.read = [&](Conn& conn) {
        conn.write("answer");
        conn.close();
    };
    Client& client = accepted_client();
    int fd = last_conn()->fd();
    client.send("question");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "answer"; }));
    kernel.recv = [](int, void*, std::size_t, int) { return fail_with(EAGAIN); };
    client.send("and more");
    loop().stop();
    // Not by what connection.h has for it: no mutant of that has to compile this file.
    auto queued = [fd](unsigned long request) {
        int bytes = -1;
        ioctl(fd, request, &bytes);
        return bytes;
    };
    EXPECT_TRUE(turn_until([&] { return queued(SIOCOUTQ) == 0 && queued(FIONREAD) == 8; }));
    pass(1000ms);
    turn(3);
    EXPECT_EQ(hooks.closed, 0);
    kernel.recv = {};
    EXPECT_TRUE(run_to_the_end());
    EXPECT_TRUE(client.ended());
}

// The kernel has all, and the client takes its time: it gets the rest when we are gone.
TEST_F(StopTest, WhoLingersGetsAGrace) {
    make_loop({.drain = 1h, .linger = 30'000ms, .grace = 1000ms});
    hooks.read = [](Conn& conn) {
        conn.write(std::string(1 << 20, 'x'));
        conn.close();
    };
    Client& client = slow_client();
    loop().stop();
    turn(3);
    EXPECT_EQ(hooks.closed, 0);
    pass(1000ms);
    turn(3);
    EXPECT_EQ(hooks.errors, std::vector{0});
    end_loop();
    receiving = true;
    EXPECT_TRUE(eventually([&] { return client.receive(), client.over(); }));
    EXPECT_EQ(client.bytes.size(), 1u << 20);
    EXPECT_TRUE(client.ended());
}

TEST_F(StopTest, AnswersEveryMessageLeftInTheInput) {
    hooks.read = [](Conn& conn) {
        conn.write(conn.input().substr(0, 1));
        conn.consume(1);
    };
    Client& client = accepted_client();
    client.send(pattern(500));
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    loop().stop();
    EXPECT_TRUE(run_to_the_end());
    client.receive();
    EXPECT_EQ(client.bytes, pattern(500));
}

TEST_F(StopTest, DrainsEightMegabytesToAClientThatReads) {
    std::string reply = pattern(8 << 20);
    hooks.read = [&](Conn& conn) {
        conn.consume(conn.input().size());
        conn.write(reply);
    };
    Client& client = accepted_client(16 << 10);
    receiving = false;
    client.send("go");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    loop().stop();
    EXPECT_TRUE(eventually([&] {
        client.receive(100'000);
        if (client.over()) client.close();
        return !loop().turn();
    }));
    EXPECT_TRUE(client.bytes == reply);
    EXPECT_TRUE(client.ended());
    EXPECT_EQ(hooks.errors, std::vector{0});
}

TEST_F(StopTest, GivesUpAtTheDeadlineOnAClientThatDoesNotRead) {
    make_loop({.drain = 5000ms});
    hooks.read = [](Conn& conn) {
        conn.consume(conn.input().size());
        conn.write(std::string(8 << 20, 'x'));
    };
    slow_client();
    loop().stop();
    turn(5);
    pass(4999ms);
    turn(5);
    EXPECT_EQ(hooks.closed, 0);
    pass(1ms);
    EXPECT_TRUE(loop().turn());  // in the next one, all has been read that had come by now
    EXPECT_FALSE(loop().turn());
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

TEST_F(StopTest, WaitsForAHeldConnection) {
    hooks.read = [](Conn& conn) { conn.consume(conn.input().size()), conn.hold(); };
    Client& client = accepted_client();
    client.send("job");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    loop().stop();
    turn(10);
    EXPECT_EQ(hooks.closed, 0);
    last_conn()->write("done");
    last_conn()->release();
    EXPECT_TRUE(run_to_the_end());
    client.receive();
    EXPECT_EQ(client.bytes, "done");
}

// It has received everything and merely keeps its end open: that is no reason to wait for the
// deadline. The answer may not be acknowledged yet in the turn in which it was sent.
TEST_F(StopTest, DoesNotWaitForAClientThatHasEverythingAndStays) {
    kernel.clock_stopped = false;  // acknowledgements may be 40 ms late: ticks must come
    make_loop({.tick = 1ms, .drain = 1h});
    hooks.read = [](Conn& conn) {
        conn.consume(conn.input().size());
        conn.write(std::string(1 << 20, 'x'));
    };
    Client& client = accepted_client(4096);  // so that much is on its way when all is sent
    client.send("answer me");
    loop().stop();
    EXPECT_TRUE(eventually([&] {
        client.receive();
        return !loop().turn();
    }));
    client.receive();
    EXPECT_EQ(client.bytes.size(), 1u << 20);
    EXPECT_TRUE(client.ended());
}

TEST_F(StopTest, ALongCallbackDoesNotUseUpTheDrainDeadline) {
    make_loop({.drain = 5000ms});
    hooks.read = [&](Conn& conn) {
        pass(6000ms);
        loop().stop();
        conn.write(std::string(4 << 20, 'x'));
        conn.consume(conn.input().size());
    };
    Client& client = accepted_client();
    client.send("go");
    EXPECT_TRUE(run_to_the_end());
    client.receive();
    EXPECT_EQ(client.bytes.size(), 4u << 20);
}

TEST_F(StopTest, ALongTickDoesNotUseUpTheDrainDeadline) {
    make_loop({.tick = 100ms, .drain = 5000ms});
    hooks.read = [&](Conn& conn) {
        if (hooks.reads == 1) pass(100ms), loop().stop();
        echo(conn);
    };
    hooks.tick = [&] {
        if (hooks.ticks == 1) pass(6000ms);
    };
    Client& client = accepted_client();
    client.send(pattern(200'000));  // more than a turn receives
    EXPECT_TRUE(run_to_the_end());
    client.receive();
    EXPECT_TRUE(client.bytes == pattern(200'000));
    EXPECT_TRUE(client.ended());
}

TEST_F(StopTest, AfterItNothingNewIsListenedTo) {
    hooks.read = [](Conn& conn) { conn.consume(conn.input().size()), conn.hold(); };
    Client& client = accepted_client();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    loop().stop();
    turn();
    Options options = any_port();
    EXPECT_FALSE(loop().listen(listen_on(options)));
    EXPECT_EQ(errno, ECANCELED);
}

TEST_F(StopTest, ConnectsUnderWayAreCancelled) {
    Options options = any_port();
    Fd listener = listen_on(options);
    ASSERT_EQ(listen(listener.get(), 0), 0);
    Client fills_it(options.address);
    ASSERT_NE(loop().connect(options.address), nullptr);
    turn(3);
    loop().stop();
    EXPECT_TRUE(run_to_the_end());
    EXPECT_EQ(hooks.errors, std::vector{ECANCELED});
}

// The handler is often a class with the loop as a member, and its other members may be gone.
TEST_F(StopTest, DestructionInMidAnswerIsAReset) {
    hooks.read = [](Conn& conn) { conn.write(std::string(8 << 20, 'x')); };
    Client& client = accepted_client(4096);
    client.send("go");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    end_loop();
    EXPECT_TRUE(eventually([&] { return client.receive(), client.over(); }));
    EXPECT_EQ(client.error(), ECONNRESET);
}

TEST_F(StopTest, DestructionClosesWhatIsLeftAndCallsNoHook) {
    for (int i = 0; i < 5; ++i) accepted_client();
    ASSERT_NE(loop().connect(address), nullptr);
    last_conn()->write("x");
    end_loop();
    EXPECT_EQ(hooks.closed, 0);
    for (auto& client : clients) {
        client->receive();
        EXPECT_TRUE(client->over());
    }
}

// ---- a stop that drops those whom it has just accepted -----------------------------------------

class GraceTest : public LoopTest {
protected:
    bool until_stopping() {
        return turn_until([&] { return loop().stopping(); });
    }
};

TEST_F(GraceTest, WhoHasJustComeGetsTimeForAFirstMessage) {
    for (int i = 0; i < 50; ++i) i % 2 ? accepted_client() : add_client();
    loop().stop();
    EXPECT_TRUE(until_stopping());
    turn(10);
    EXPECT_EQ(hooks.accepted, 50);
    EXPECT_EQ(hooks.closed, 0);
    for (auto& client : clients) client->send("first");
    EXPECT_TRUE(run_to_the_end());
    for (auto& client : clients) EXPECT_EQ(client->bytes, "first");
}

TEST_F(GraceTest, WhoHasBeenSilentForLongGetsNone) {
    Client& silent = accepted_client();
    turn();
    pass(1000ms);
    loop().stop();
    EXPECT_TRUE(until_stopping());
    EXPECT_TRUE(turn_until([&] { return silent.ended(); }));
}

TEST_F(GraceTest, AMessageThatHasBegunIsAwaited) {
    hooks.read = [](Conn& conn) {
        if (conn.input().size() == 10) echo(conn);
    };
    Client& client = accepted_client();
    client.send("a whole 10");
    EXPECT_TRUE(turn_until([&] { return client.bytes.size() == 10; }));
    int before = hooks.reads;
    client.send("01234");
    EXPECT_TRUE(turn_until([&] { return hooks.reads > before; }));
    loop().stop();
    turn(10);
    client.send("56789");
    EXPECT_TRUE(run_to_the_end());
    EXPECT_EQ(client.bytes, "a whole 100123456789");
}

TEST_F(GraceTest, IsOverAfterATime) {
    Client& silent = accepted_client();
    loop().stop();
    kernel.time_flies = true;
    EXPECT_TRUE(run_to_the_end());
    EXPECT_TRUE(silent.ended());
    EXPECT_LE(kernel.now.count(), 2100);
}

TEST_F(GraceTest, TheHandlerIsToldOnceAndThenItsClients) {
    make_loop({.notice = 3000ms});
    hooks.read = [](Conn& conn) {
        conn.write(conn.loop().stopping() ? "closing" : "staying");
        take_all(conn);
    };
    Client& old = accepted_client();
    old.send("?");
    EXPECT_TRUE(turn_until([&] { return old.bytes == "staying"; }));
    EXPECT_FALSE(loop().stopping());
    loop().stop();
    loop().stop();
    EXPECT_TRUE(until_stopping());
    Client& late = accepted_client();  // the listener is still there
    late.send("?");
    old.send("?");
    EXPECT_TRUE(turn_until([&] { return late.bytes == "closing" && old.bytes.size() == 14; }));
    pass(2999ms);
    turn(3);
    EXPECT_FALSE(old.over());
    pass(1ms);
    EXPECT_TRUE(run_to_the_end());
    EXPECT_EQ(hooks.stops, 1);
    EXPECT_EQ(listeners(), 0);  // and the port may be another program's
}

// ---- a deadline that the loop's own work uses up -----------------------------------------------

TEST_F(GraceTest, WorkOfTheStopDoesNotUseUpItsDeadline) {
    make_loop({.drain = 5000ms});
    std::uint64_t held = 0;
    hooks.accept = [&](Conn&) {
        if (loop().stopping()) pass(100ms);
        return true;
    };
    hooks.read = [&](Conn& conn) {
        if (conn.input() != "later") return echo(conn);
        take_all(conn);
        conn.hold();
        held = conn.id();
    };
    accepted_client().send("later");
    EXPECT_TRUE(turn_until([&] { return held != 0; }));
    kernel.accept4 = [&](int fd, sockaddr* at, socklen_t* length, int flags) {
        if (!loop().stopping()) return fail_with(EAGAIN);
        return real::accept4(fd, at, length, flags);
    };
    for (int i = 0; i < 60; ++i) add_client().send("x");
    loop().stop();
    turn(3);  // the queue alone has taken six seconds
    pass(4000ms);
    turn(3);
    Conn* conn = loop().conn(held);
    ASSERT_NE(conn, nullptr);
    conn->write("done");
    conn->release();
    EXPECT_TRUE(run_to_the_end());
    for (auto& client : clients) EXPECT_EQ(client->bytes, client == clients[0] ? "done" : "x");
}

// ---- "what had come by then" is read until a call happens to say EAGAIN ------------------------

TEST_F(GraceTest, AClientThatSendsWithoutAPauseDoesNotHoldTheStop) {
    make_loop({.max_input = 10'000, .drain = 1h, .grace = 1000ms});
    Client& client = accepted_client();
    std::string flood(33'333, 'x');  // so that the last recv() could take too much
    client.send(flood);
    EXPECT_TRUE(turn_until([&] { return hooks.reads > 0; }));
    loop().stop();
    EXPECT_TRUE(eventually([&] {
        client.send_some(flood);
        client.receive();
        pass(10ms);
        return !loop().turn();
    }));
    EXPECT_LE(kernel.now.count(), 5000);
    EXPECT_EQ(hooks.closed, 1);
}
