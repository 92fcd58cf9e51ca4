// Deadlines: who is idle, and when that is judged.

#include "loop_fixture.h"

// ---- who is idle -------------------------------------------------------------------------------

class DeadlineTest : public LoopTest {
protected:
    // More than one epoll_wait() reports.
    void add_clients_and_pause(std::chrono::milliseconds pause) {
        for (int i = 0; i < 300; ++i) accepted_client();
        turn(3);
        for (auto& client : clients) client->send("in time");
        pass(pause);
    }
    bool all_are_answered() {
        return turn_until([&] {
            for (auto& client : clients)
                if (client->bytes != "in time") return hooks.closed != 0;
            return true;
        });
    }
};

TEST_F(DeadlineTest, IdleClientsAreClosedAtTheirDeadline) {
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

TEST_F(DeadlineTest, ADribbledMessageDoesNotHoldOffTheIdleDeadline) {
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

TEST_F(DeadlineTest, AMessageTakenInTheTickIsProgress) {
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

TEST_F(DeadlineTest, AHeldConnectionHasNoIdleDeadline) {
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

// A client that only listens.
TEST_F(DeadlineTest, WhoIsSentSomethingIsNotIdle) {
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

TEST_F(DeadlineTest, TheIdleDeadlineCountsFromTheRelease) {
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

// ---- a deadline is judged before what had come by then is read ---------------------------------

TEST_F(DeadlineTest, BytesThatCameDuringAPauseCount) {
    make_loop({.tick = 1000ms, .idle = 2000ms});
    add_clients_and_pause(60'000ms);
    EXPECT_TRUE(all_are_answered());
    EXPECT_EQ(hooks.closed, 0);
}

// SIGSTOP and SIGCONT: epoll_wait() returns EINTR, with nothing.
TEST_F(DeadlineTest, BytesThatCameDuringAStopOfTheProcessCount) {
    make_loop({.tick = 1000ms, .idle = 2000ms});
    add_clients_and_pause(60'000ms);
    int interrupted = 3;
    kernel.epoll_wait = [&](int epoll, epoll_event* events, int most, int) {
        if (interrupted-- > 0) return fail_with(EINTR);
        return real::epoll_wait(epoll, events, most, 1);
    };
    EXPECT_TRUE(all_are_answered());
    EXPECT_EQ(hooks.closed, 0);
}

TEST_F(DeadlineTest, AMessageOfManyReadsThatCameDuringAPauseCounts) {
    make_loop({.tick = 1000ms, .idle = 2000ms});
    std::string sent = pattern(500'000);
    hooks.read = [&](Conn& conn) {
        if (conn.input().size() == sent.size()) echo(conn);
    };
    Client& client = accepted_client();
    turn(3);
    std::size_t done = client.send_some(sent);
    ASSERT_GT(done, 200'000u);
    pass(60'000ms);
    EXPECT_TRUE(turn_until([&] {
        done += client.send_some(std::string_view(sent).substr(done));
        return client.bytes.size() == sent.size() || hooks.closed != 0;
    }));
    EXPECT_EQ(hooks.closed, 0);
}

TEST_F(DeadlineTest, ConnectsThatWereUpDuringAPauseAreUp) {
    constexpr int many = 700;  // so that two batches are not enough
    if (ports() < 2 * many) GTEST_SKIP() << "this machine has only " << ports() << " ports";
    make_loop({.tick = 1000ms, .connect = 3000ms});
    Options options = any_port();
    Fd server = listen_on(options);
    for (int i = 0; i < many; ++i) ASSERT_NE(loop().connect(options.address), nullptr);
    loop().turn();
    pass(60'000ms);
    EXPECT_TRUE(turn_until([&] { return hooks.connected + hooks.closed == many; }));
    EXPECT_EQ(hooks.connected, many);
}

// The batches are full for as long as everybody sends: deadlines are judged all the same.
TEST_F(DeadlineTest, ASilentClientIsClosedBesideThreeHundredBusyOnes) {
    make_loop({.tick = 1000ms, .idle = 2000ms});
    Client& silent = accepted_client();
    for (int i = 0; i < 300; ++i) accepted_client();
    EXPECT_TRUE(turn_until([&] {
        for (auto& client : clients)
            if (client.get() != &silent) client->send_some("busy");
        pass(10ms);
        return hooks.closed != 0;
    }));
    EXPECT_TRUE(silent.over());
    EXPECT_EQ(hooks.closed, 1);
}

// Each turn takes longer than a tick, and each tick finds the silent one overdue.
TEST_F(DeadlineTest, ASilentClientIsClosedHoweverLongATurnTakes) {
    make_loop({.tick = 1000ms, .idle = 20'000ms});
    Client& silent = accepted_client();
    for (int i = 0; i < 300; ++i) accepted_client();
    for (int i = 0; i < 100 && hooks.closed == 0; ++i) {
        for (auto& client : clients)
            if (client.get() != &silent) client->send_some("busy");
        pass(1000ms);
        turn();
    }
    EXPECT_TRUE(silent.over());
    EXPECT_EQ(hooks.closed, 1);
}

// One is overdue. While it is judged, a hook takes a minute, and another client sends meanwhile.
TEST_F(DeadlineTest, WhoIsJudgedIsJudgedAsOfTheTick) {
    make_loop({.tick = 1000ms, .idle = 2000ms});
    Client& silent = accepted_client();
    Client& other = accepted_client();
    Client& slow = accepted_client();
    pass(1999ms);
    other.send("1");
    EXPECT_TRUE(turn_until([&] { return other.bytes == "1"; }));
    hooks.read = [&](Conn& conn) {
        if (conn.input() == "slow") {
            pass(60'000ms);
            other.send("2");
        }
        echo(conn);
    };
    pass(1ms);
    turn();  // the tick
    slow.send("slow");
    turn();
    EXPECT_EQ(hooks.closed, 1);
    EXPECT_TRUE(turn_until([&] { return other.bytes == "12" || hooks.closed == 2; }));
    EXPECT_EQ(hooks.closed, 1);
    EXPECT_TRUE(silent.over());
}

TEST_F(DeadlineTest, WhoIsOverdueIsJudgedWithoutAnotherSleep) {
    make_loop({.tick = 1000ms, .idle = 2000ms});
    accepted_client();
    turn(3);
    pass(2000ms);
    turn();  // the tick
    int waited = -1;
    kernel.epoll_wait = [&](int epoll, epoll_event* events, int most, int timeout) {
        waited = timeout;
        return real::epoll_wait(epoll, events, most, 0);
    };
    turn();
    EXPECT_EQ(waited, 0);
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
}

TEST_F(DeadlineTest, OfTheHandlerCountsWhateverTheClientDoes) {
    make_loop({.tick = 1000ms, .idle = 60'000ms});
    hooks.accept = [](Conn& conn) { return conn.deadline(10'000ms), true; };
    hooks.read = take_all;  // a body that is taken as it comes: each byte is progress
    Client& client = accepted_client();
    for (int s = 0; s < 9; ++s) {
        client.send_some("x");
        pass(1000ms);
        turn(3);
    }
    EXPECT_EQ(hooks.closed, 0);
    pass(1000ms);
    turn(3);
    EXPECT_EQ(hooks.errors, std::vector{ETIMEDOUT});
    hooks.accept = [](Conn& conn) { return conn.deadline(1000ms), true; };
    accepted_client();
    last_conn()->deadline(0ms);
    pass(10'000ms);
    turn(3);
    EXPECT_EQ(hooks.closed, 1) << "none is none";
}
