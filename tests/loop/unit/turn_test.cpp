// Ticks, stop() and post().

#include "07-evloop/connection.h"
#include "loop_fixture.h"

#include <atomic>
#include <csignal>
#include <sys/eventfd.h>
#include <thread>
#include <utility>

// ---- the tick ----------------------------------------------------------------------------------

class TickTest : public LoopTest {};

TEST_F(TickTest, WakeUpsWhileIdleAreTicksOnly) {
    for (int i = 0; i < 50; ++i) accepted_client();
    EXPECT_TRUE(rests());
    int ticks = hooks.ticks;
    kernel.time_flies = true;
    for (int i = 0; i < 100; ++i) loop().turn();
    EXPECT_EQ(hooks.ticks - ticks, 100);
}

// Traffic never pauses, so that epoll_wait() never times out.
TEST_F(TickTest, ExactUnderTrafficOverAHundredIntervals) {
    make_loop({.tick = 100ms});
    Client& client = accepted_client();
    EXPECT_EQ(hooks.ticks, 0);
    std::size_t rounds = 0;
    for (int step = 0; step < 10'000; ++step) {
        client.send("x");
        pass(1ms);
        EXPECT_TRUE(turn_until([&] { return client.bytes.size() > rounds; }));
        ++rounds;
        ASSERT_EQ(hooks.ticks, (step + 1) / 100) << "after " << step + 1 << " ms";
    }
    EXPECT_EQ(hooks.ticks, 100);
}

TEST_F(TickTest, LateTicksDoNotDrift) {
    make_loop({.tick = 100ms});
    std::vector<long> at;
    auto start = kernel.now;
    hooks.tick = [&] { at.push_back((kernel.now - start).count()); };
    for (int i = 0; i < 300; ++i) {
        pass(37ms);
        turn();
    }
    ASSERT_EQ(at.size(), 111u);  // 300 * 37 / 100
    for (std::size_t i = 0; i < at.size(); ++i) EXPECT_LT(at[i] - long(i + 1) * 100, 37);
}

TEST_F(TickTest, ACallbackLongerThanThreeIntervalsIsNoBurst) {
    make_loop({.tick = 100ms});
    hooks.read = [&](Conn& conn) {
        pass(350ms);
        echo(conn);
    };
    Client& client = accepted_client();
    client.send("long");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    turn(20);
    EXPECT_EQ(hooks.ticks, 1);
    pass(49ms);
    turn(3);
    EXPECT_EQ(hooks.ticks, 1);
    pass(1ms);
    turn(3);
    EXPECT_EQ(hooks.ticks, 2) << "at 400 ms, as if nothing had happened";
}

TEST_F(TickTest, ComesEvenIfEveryWaitIsInterrupted) {
    kernel.epoll_wait = [](int, epoll_event*, int, int) {
        kernel.now += 100ms;
        return fail_with(EINTR);
    };
    for (int i = 0; i < 100; ++i) loop().turn();
    EXPECT_EQ(hooks.ticks, 10);
}

// A callback that takes longer than the idle time must not end those who came meanwhile, or were
// served in the same turn.
TEST_F(TickTest, ALongCallbackDoesNotMakeOthersIdle) {
    make_loop({.tick = 100ms, .idle = 2000ms});
    Client& a = accepted_client();
    Client& b = accepted_client();
    turn(5);
    hooks.read = [&](Conn& conn) {
        if (hooks.reads == 1) pass(3000ms);
        echo(conn);
    };
    a.send("a");
    b.send("b");
    turn(10);
    EXPECT_EQ(hooks.closed, 0);
    EXPECT_EQ(a.bytes + b.bytes, "ab");
}

// The output of a turn is sent after its tick.
TEST_F(TickTest, ALongTickDoesNotMakeOthersIdle) {
    make_loop({.tick = 100ms, .idle = 2000ms});
    Client& client = accepted_client();
    hooks.tick = [&] {
        if (hooks.ticks == 1) pass(3000ms);
    };
    client.send("x");
    pass(100ms);
    EXPECT_TRUE(turn_until([&] { return hooks.ticks > 1; }));
    turn(3);
    EXPECT_EQ(client.bytes, "x");
    EXPECT_EQ(hooks.closed, 0);
}

// ---- stop --------------------------------------------------------------------------------------

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
    EXPECT_EQ(Client(address).error(), ECONNREFUSED);
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
    EXPECT_TRUE(turn_until([&] { return unacknowledged(fd) == 0 && unread(fd) == 8; }));
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
    Client& client = accepted_client(4096);
    receiving = false;
    client.send("answer me");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
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
    Client& client = accepted_client(4096);
    receiving = false;
    client.send("go");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
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

// ---- other threads, and signals ----------------------------------------------------------------

class ThreadsTest : public LoopTest {
protected:
    ThreadsTest() { kernel.clock_stopped = false; }
};

TEST_F(ThreadsTest, PostFromEightThreadsRunsEverythingInTheOrderOfEach) {
    constexpr int threads = 8, each = 1000;
    std::vector<int> last(threads, -1);
    int total = 0;
    bool in_order = true;
    auto loops_thread = std::this_thread::get_id();
    std::vector<std::jthread> posting;
    for (int t = 0; t < threads; ++t)
        posting.emplace_back([&, t] {
            for (int i = 0; i < each; ++i)
                loop().post([&, t, i] {
                    in_order = in_order && std::exchange(last[t], i) == i - 1 &&
                               std::this_thread::get_id() == loops_thread;
                    if (++total == threads * each) loop().stop();
                });
        });
    loop().run();
    EXPECT_EQ(total, threads * each);
    EXPECT_TRUE(in_order);
}

TEST_F(ThreadsTest, StopFromEightThreads) {
    for (int round = 0; round < 20; ++round) {
        make_loop();
        std::atomic<bool> go = false;
        std::vector<std::jthread> stopping;
        for (int t = 0; t < 8; ++t)
            stopping.emplace_back([&] {
                while (!go) std::this_thread::yield();
                loop().post([] {});
                loop().stop();
            });
        go = true;
        loop().run();
    }
}

TEST_F(ThreadsTest, StopWakesALoopThatSleeps) {
    make_loop({.tick = 1h});
    std::jthread other([&] { loop().stop(); });
    loop().run();
}

Loop* stopped_by_signal;
std::atomic<int> errno_in_handler_kept;

TEST_F(ThreadsTest, StopFromASignalHandler) {
    make_loop({.tick = 1h});
    stopped_by_signal = &loop();
    struct sigaction action {
    }, before;
    action.sa_handler = [](int) {
        int interrupted = std::exchange(errno, 4711);
        stopped_by_signal->stop();
        errno_in_handler_kept = errno == 4711;
        errno = interrupted;
    };
    sigaction(SIGUSR2, &action, &before);
    hooks.fd = [&](int fd, std::uint32_t) {
        loop().remove_fd(fd);
        raise(SIGUSR2);
    };
    Fd ready{eventfd(1, EFD_CLOEXEC)};
    EXPECT_TRUE(loop().add_fd(ready.get(), EPOLLIN));
    loop().run();
    EXPECT_TRUE(errno_in_handler_kept);

    // And while it sleeps: the signal comes from outside.
    make_loop({.tick = 1h});
    stopped_by_signal = &loop();
    pthread_t loops_thread = pthread_self();
    std::jthread other([&] { pthread_kill(loops_thread, SIGUSR2); });
    loop().run();
    sigaction(SIGUSR2, &before, nullptr);
}

TEST_F(ThreadsTest, ATaskPostedBeforeStopRuns) {
    bool ran = false;
    hooks.fd = [&](int fd, std::uint32_t) {  // the wait of this turn is over: no event for it comes
        loop().remove_fd(fd);
        loop().post([&] { ran = true; });
        loop().stop();
    };
    Fd ready{eventfd(1, EFD_CLOEXEC)};
    EXPECT_TRUE(loop().add_fd(ready.get(), EPOLLIN));
    loop().run();
    EXPECT_TRUE(ran);
}

TEST_F(ThreadsTest, ATaskMayPostAndThrowAndUseTheLoop) {
    int ran = 0;
    loop().post([&] {
        ++ran;
        loop().post([&] {
            ++ran;
            loop().stop();
        });
        throw std::runtime_error("from a task");
    });
    loop().post([&] { ++ran; });
    loop().run();
    EXPECT_EQ(ran, 3);
}

// A task is run where it is: a copy could fail, and take the others with it.
struct CannotBeCopied {
    int* ran;
    bool* armed;
    CannotBeCopied(int* r, bool* a) : ran(r), armed(a) {}
    CannotBeCopied(CannotBeCopied&&) = default;
    CannotBeCopied(const CannotBeCopied& other) : ran(other.ran), armed(other.armed) {
        if (*armed) throw std::bad_alloc();
    }
    void operator()() const { ++*ran; }
};

TEST_F(ThreadsTest, ATaskIsNotCopied) {
    int ran = 0;
    bool armed = false;
    for (int i = 0; i < 5; ++i) loop().post(CannotBeCopied(&ran, &armed));
    armed = true;
    loop().stop();
    loop().run();
    EXPECT_EQ(ran, 5);
}

TEST_F(ThreadsTest, ATaskPostedAfterTheEndIsDestroyedWithTheLoop) {
    loop().stop();
    loop().run();
    auto held = std::make_shared<int>(1);
    loop().post([held] { FAIL(); });
    EXPECT_EQ(held.use_count(), 2);
    end_loop();
    EXPECT_EQ(held.use_count(), 1);
}

// One loop per thread, nothing shared: what server.cpp --threads does.
TEST_F(ThreadsTest, FourLoopsOnOnePort) {
    Options options = any_port();
    std::vector<std::unique_ptr<Hooks>> handlers;
    std::vector<std::unique_ptr<Loop>> loops;
    for (int i = 0; i < 4; ++i) {
        handlers.push_back(std::make_unique<Hooks>());
        loops.push_back(std::make_unique<Loop>(*handlers.back()));
        EXPECT_TRUE(loops.back()->listen(listen_on(options, SOCK_NONBLOCK, true)));
    }
    std::vector<std::jthread> running;
    for (auto& one : loops) running.emplace_back([&one] { one->run(); });
    std::vector<std::unique_ptr<Client>> many;
    for (int i = 0; i < 40; ++i) {
        many.push_back(std::make_unique<Client>(options.address));
        many.back()->send("to whichever loop");
    }
    for (auto& client : many)
        EXPECT_TRUE(eventually([&] {
            client->receive();
            return client->bytes == "to whichever loop";
        }));
    many.clear();
    for (auto& one : loops) one->stop();
    running.clear();
    int accepted = 0, closed = 0;
    for (auto& handler : handlers) accepted += handler->accepted, closed += handler->closed;
    EXPECT_EQ(accepted, 40);
    EXPECT_EQ(closed, 40);
}
