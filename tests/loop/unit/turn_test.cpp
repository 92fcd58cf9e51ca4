// Ticks, post(), other threads and signals.

#include "loop_fixture.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <string>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>
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

// Is a thread asleep? Its state is behind its name, which is in brackets (proc(5)).
bool sleeps(pid_t thread) {
    std::ifstream stat("/proc/self/task/" + std::to_string(thread) + "/stat");
    std::string text{std::istreambuf_iterator<char>(stat), {}};
    std::size_t end = text.rfind(')');
    return end != text.npos && text.substr(end + 2, 1) == "S";
}

// While one thread is in the middle of post(), another one comes: does it wait, or go in as well?
TEST_F(ThreadsTest, PostIsForOneThreadAtATime) {
    std::atomic<int> inside = 0, most = 0;
    std::atomic<pid_t> second = 0;
    std::jthread other;
    int ran = 0;
    kernel.write = [&](int fd, const void* bytes, std::size_t size) {  // the last act of post()
        most = std::max(most.load(), ++inside);
        if (most == 1 && second == 0) {
            other = std::jthread([&] {
                second = gettid();
                loop().post([&] { ++ran; });
            });
            EXPECT_TRUE(eventually([&] { return inside == 2 || (second && sleeps(second)); }));
        }
        --inside;
        return real::write(fd, bytes, size);
    };
    loop().post([&] { ++ran; });
    other.join();
    EXPECT_EQ(most, 1);
    EXPECT_TRUE(turn_until([&] { return ran == 2; }));
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
