// Kinds of faults that loops have, this one once among them: a test for each, named after it.

#include "loop_fixture.h"

#include <atomic>
#include <cstdlib>
#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>

// ---- an unknown error is retried at once -------------------------------------------------------

class UnknownErrorTest : public LoopTest {
protected:
    UnknownErrorTest() { testing::internal::CaptureStderr(); }
    ~UnknownErrorTest() override {
        std::string said = testing::internal::GetCapturedStderr();
        EXPECT_NE(said.find(expected), std::string::npos) << said;
    }
    std::string expected;
};

TEST_F(UnknownErrorTest, OfAcceptRestsTheListenerUntilTheNextTick) {
    expected = "accept: Level 2 halted\n";
    Client& there = accepted_client();
    int calls = 0;
    kernel.accept4 = [&](int, sockaddr*, socklen_t*, int) {
        ++calls;
        return fail_with(EL2HLT);
    };
    add_client();
    Client& other = *clients[0];
    turn(100);
    EXPECT_EQ(calls, 1);
    other.close();  // a free descriptor is no help
    turn(10);
    EXPECT_EQ(calls, 1);
    pass(1000ms);
    turn(10);
    EXPECT_EQ(calls, 2);
    (void)there;
}

TEST_F(UnknownErrorTest, AListenerThatListensNoMoreHoldsUpNobody) {
    expected = "accept: Invalid argument\n";
    make_loop();
    Options options = any_port();
    Fd listener = listen_on(options);
    int number = listener.get();
    EXPECT_TRUE(loop().listen(std::move(listener)));
    Client& client = accepted_client();
    shutdown(number, SHUT_RDWR);
    turn(5);
    kernel.quiet_waits = 0;
    turn(20);
    EXPECT_EQ(kernel.quiet_waits, 20);
    client.send("and I?");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "and I?"; }));
    accepted_client();
}

TEST_F(UnknownErrorTest, OfEpollWaitIsSaidAndSleptOn) {
    expected = "epoll_wait: Bad address\n";
    int sleeps = 0;
    kernel.epoll_wait = [](int, epoll_event*, int, int) { return fail_with(EFAULT); };
    kernel.poll = [&](pollfd* fds, nfds_t count, int timeout) {
        timespec none{};
        int ready = ppoll(fds, count, &none, nullptr);
        if (timeout == 0) return ready;  // is there room on stderr?
        ++sleeps;
        if (ready == 0) kernel.now += std::chrono::milliseconds(timeout);
        return ready;
    };
    for (int i = 0; i < 10; ++i) loop().turn();
    EXPECT_EQ(sleeps, 10);
    EXPECT_EQ(hooks.ticks, 10);
    EXPECT_EQ(kernel.now, 10'000ms) << "each until the next tick";
    kernel.poll = {};
}

TEST_F(UnknownErrorTest, OfEpollWaitDoesNotOutlastAStop) {
    make_loop({.drain = 3000ms});
    accepted_client();
    kernel.epoll_wait = [](int, epoll_event*, int, int) { return fail_with(EFAULT); };
    kernel.poll = [&](pollfd* fds, nfds_t count, int timeout) {
        timespec none{};
        int ready = ppoll(fds, count, &none, nullptr);
        if (ready == 0) kernel.now += std::chrono::milliseconds(timeout);
        return ready;
    };
    loop().stop();
    int turns = 0;
    while (loop().turn() && turns < 100) ++turns;
    EXPECT_LT(turns, 20);
    EXPECT_EQ(hooks.closed, 1);
    kernel.poll = {};
}

TEST_F(UnknownErrorTest, AThrowInMidAnswerIsAReset) {
    expected = "a handler has thrown: half way\n";
    hooks.read = [](Conn& conn) {
        take_all(conn);
        conn.write(std::string(20'000, 'x'));
        throw std::runtime_error("half way");
    };
    Client& client = accepted_client();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(client.error(), ECONNRESET);
}

class FaultTest : public LoopTest {};

// ---- "connected" is taken for "to a server" ----------------------------------------------------

// The kernel may pick the very port that we connect to. Here it has no choice.
TEST_F(FaultTest, AConnectionToItselfIsRefused) {
    Address free_port = *parse_address("127.0.0.1", 0);
    kernel.connect = [&](int fd, const sockaddr*, socklen_t) {
        EXPECT_EQ(bind(fd, free_port.data(), free_port.length), 0);
        Address here = local_address(fd);
        return real::connect(fd, here.data(), here.length);
    };
    ASSERT_NE(loop().connect(free_port), nullptr);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.errors, std::vector{ECONNREFUSED});
    EXPECT_EQ(hooks.connected, 0);
}

// ---- a returned length is trusted --------------------------------------------------------------

TEST_F(FaultTest, ThePeerOfAUnixSocketHasNoAddressOfOurs) {
    std::string path = testing::TempDir() + "loop-" + std::to_string(getpid());
    auto make = [](const std::string& text) {
        sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
        text.copy(address.sun_path, sizeof address.sun_path - 1);
        return address;
    };
    Fd listener{socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_un to = make(path);
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    ASSERT_EQ(::listen(listener.get(), 10), 0);
    EXPECT_TRUE(loop().listen(std::move(listener)));
    Fd client{socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_un from = make(path + std::string(70, '-'));  // longer than an Address
    ASSERT_EQ(bind(client.get(), reinterpret_cast<sockaddr*>(&from), sizeof from), 0);
    ASSERT_EQ(real::connect(client.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    EXPECT_TRUE(turn_until([&] { return hooks.accepted == 1; }));
    EXPECT_EQ(last_conn()->peer(), "?");
    client = Fd{};
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    unlink(from.sun_path);
    unlink(path.c_str());
}

// ---- user code runs while a container of the loop is destroyed or changed ----------------------

namespace {

// Calls a function at its end, as a handler's own objects may.
class AtTheEnd {
public:
    explicit AtTheEnd(std::function<void()> call)
        : call_(new std::function<void()>(std::move(call)), [](auto* f) {
              (*f)();
              delete f;
          }) {}
    void operator()() const {}

private:
    std::shared_ptr<std::function<void()>> call_;
};

}  // namespace

TEST_F(FaultTest, ATaskMayPostFromItsDestructor) {
    int ended = 0;
    loop().stop();
    loop().run();
    for (int i = 0; i < 10; ++i)
        loop().post(AtTheEnd([&, same = &loop()] {
            for (int j = 0; j < 10; ++j) same->post(AtTheEnd([&] { ++ended; }));
        }));
    end_loop();
    EXPECT_EQ(ended, 100);
}

TEST_F(FaultTest, StateMayUseTheLoopFromItsDestructor) {
    int ended = 0;
    Loop* same = &loop();
    Fd event{eventfd(0, EFD_CLOEXEC)};
    hooks.accept = [&](Conn& conn) {
        std::uint64_t id = conn.id();
        conn.state = AtTheEnd([&, id, same] {
            ++ended;
            EXPECT_EQ(same->conn(id), nullptr);
            same->post([] {});
            same->add_fd(event.get(), EPOLLIN);
            same->remove_fd(event.get());
            if (ended < 100) same->connect(address);
            (void)same->connections();
        });
        return true;
    };
    for (int i = 0; i < 20; ++i) accepted_client();
    for (int i = 0; i < 10; ++i) clients[i]->reset();
    EXPECT_TRUE(turn_until([&] { return ended >= 10; }));
    end_loop();
    EXPECT_GE(ended, 20);
}

// ---- a second owner ----------------------------------------------------------------------------

// The loop may be gone as soon as it knows.
TEST_F(FaultTest, StopTouchesNothingOnceTheLoopKnows) {
    Loop* same = &loop();
    kernel.write = [&](int fd, const void* bytes, std::size_t size) {
        ssize_t n = real::write(fd, bytes, size);
        kernel.write = {};
        loop().run();
        end_loop();
        return n;
    };
    same->stop();
}

TEST_F(FaultTest, AForkedChildMayDestroyItsCopy) {
    Client& client = accepted_client();
    Client& reader = accepted_client(4096);
    receiving = false;
    hooks.read = [](Conn& conn) {
        std::string_view bytes = conn.input();
        conn.write(bytes);
        if (bytes == "much") conn.write(std::string(4 << 20, 'x'));
        conn.consume(bytes.size());
    };
    reader.send("much");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    pid_t child = fork();
    if (child == 0) {
        loop_.reset();
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    receiving = true;
    client.send("still here?");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "still here?"; }));
    EXPECT_TRUE(turn_until([&] { return reader.bytes.size() == 4u + (4 << 20); }));
    accepted_client();
}

// Between fork() and execve() a child has the signal handlers of its parent. They call stop().
TEST_F(FaultTest, AForkedChildDoesNotStopItsParent) {
    pid_t child = fork();
    if (child == 0) {
        loop().stop();
        _exit(0);
    }
    waitpid(child, nullptr, 0);
    turn(3);
    EXPECT_FALSE(loop().stopping());
    Client& client = accepted_client();
    client.send("still here?");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "still here?"; }));
}

TEST_F(FaultTest, RunAfterTheEndDoesNotWait) {
    loop().stop();
    loop().run();
    kernel.epoll_wait = [](int, epoll_event*, int, int) {
        ADD_FAILURE() << "it waits";
        return 0;
    };
    loop().run();
}

// A copy of a closed descriptor keeps it in epoll's list, where nobody can take it out (epoll(7),
// Q6): its events come for ever.
TEST_F(FaultTest, DescriptorsThatAForkedChildKeepsDoNotSpin) {
    hooks.read = [](Conn& conn) { conn.abort(); };
    Client& other = accepted_client();
    Client& client = accepted_client();
    Client& next = accepted_client();
    Fd event{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    int calls = 0;
    hooks.fd = [&](int fd, std::uint32_t) {
        eventfd_t count;
        eventfd_read(fd, &count);
        ++calls;
    };
    EXPECT_TRUE(loop().add_fd(event.get(), EPOLLIN));
    EXPECT_TRUE(rests());
    pid_t child = fork();
    if (child == 0)
        for (;;) pause();
    client.send("x");
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    turn(5);
    client.send_some("more");  // for a socket that only the child has
    EXPECT_TRUE(rests());
    int added = 0;
    kernel.epoll_ctl = [&](int epoll, int operation, int fd, epoll_event* event) {
        added += operation == EPOLL_CTL_ADD;
        return real::epoll_ctl(epoll, operation, fd, event);
    };
    next.send("x");
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 2; }));
    next.send_some("more");
    EXPECT_TRUE(rests());
    EXPECT_EQ(added, 0) << "epoll was told of that close";
    hooks.read = {};
    other.send("and I?");
    eventfd_write(event.get(), 1);
    EXPECT_TRUE(turn_until([&] { return other.bytes == "and I?" && calls == 1; }));
    pass(1000ms);
    EXPECT_TRUE(turn_until([&] { return hooks.ticks > 0; }));
    bool ran = false;
    loop().post([&] { ran = true; });
    EXPECT_TRUE(turn_until([&] { return ran; }));
    accepted_client();
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    loop().remove_fd(event.get());
}

// ---- a promise that one path does not keep -----------------------------------------------------

TEST_F(FaultTest, AfterAbortTheLoopOverTheMessagesEnds) {
    int executed = 0;
    hooks.read = [&](Conn& conn) {
        while (!conn.input().empty()) {
            ++executed;
            conn.abort();
            conn.consume(1);
        }
    };
    accepted_client().send("8 orders");
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(executed, 1);
}

TEST_F(FaultTest, NoOnConnectBehindClose) {
    Options options = any_port();
    Fd server = listen_on(options);
    Conn* conn = loop().connect(options.address);
    conn->write("last words");
    conn->close();
    Fd accepted{::accept(server.get(), nullptr, nullptr)};
    turn(5);
    char room[100];
    EXPECT_EQ(real::recv(accepted.get(), room, sizeof room, 0), 10) << "but what was written goes";
    accepted = Fd{};
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    EXPECT_EQ(hooks.connected, 0);
    EXPECT_EQ(hooks.errors, std::vector{0});
}

TEST_F(FaultTest, ATerminalThatHasHungUpDoesNotSpin) {
    Fd master{posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
    if (!master || grantpt(master.get()) == -1 || unlockpt(master.get()) == -1)
        GTEST_SKIP() << "there are no terminals here";
    Fd terminal{open(ptsname(master.get()), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)};
    ASSERT_TRUE(terminal);
    int calls = 0;
    hooks.fd = [&](int fd, std::uint32_t) {
        ++calls;
        char byte;
        (void)!::read(fd, &byte, 1);
    };
    EXPECT_TRUE(loop().add_fd(terminal.get(), EPOLLIN));
    EXPECT_TRUE(rests());
    master = Fd{};
    EXPECT_TRUE(rests());
    EXPECT_GE(calls, 1);
}

using MisuseDeathTest = LoopTest;

TEST_F(MisuseDeathTest, LimitsThatMeanNothingAreRefused) {
    EXPECT_DEATH(Loop(hooks, {.max_input = 0}), "max_input > 0");
    EXPECT_DEATH(Loop(hooks, {.tick = 0ms}), "tick");
    EXPECT_DEATH(Loop(hooks, {.idle = -1ms}), "idle");
    EXPECT_DEATH(Loop(hooks, {.high_water = 1, .low_water = 2}), "low_water");
    EXPECT_DEATH(Loop(hooks, {.connect = 24h * 1000}), "24h");
}

TEST_F(MisuseDeathTest, TurnInsideAHookIsTold) {
    hooks.tick = [&] { loop().turn(); };
    pass(1000ms);
    EXPECT_DEATH(loop().turn(), "may not be called by a hook");
    hooks.tick = {};
}

TEST_F(MisuseDeathTest, AWriteFromAnotherThreadIsTold) {
    accepted_client();
    hooks.tick = [&] { std::thread([&] { last_conn()->write("x"); }).join(); };
    pass(1000ms);
    EXPECT_DEATH(loop().turn(), "belongs to the thread of its loop");
    hooks.tick = {};
}

TEST_F(MisuseDeathTest, AForkedChildMayNotRunItsCopy) {
    pid_t child = fork();
    if (child == 0) {
        Fd nowhere{open("/dev/null", O_WRONLY)};
        dup2(nowhere.get(), STDERR_FILENO);
        loop().run();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

TEST_F(FaultTest, TheThreadOfALoopMayBeCancelled) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "ASan takes the stack that was left for a fault: google/sanitizers#1399";
#endif
    kernel.clock_stopped = false;
    make_loop({.tick = 1h});
    accepted_client();
    Fd ready{eventfd(1, EFD_CLOEXEC)};
    std::atomic<bool> hook_runs = false;
    hooks.fd = [&](int, std::uint32_t) {
        hook_runs = true;
        hook_runs.notify_one();
        for (;;) pause();
    };
    for (bool in_a_hook : {false, true}) {
        if (in_a_hook) loop().add_fd(ready.get(), EPOLLIN);
        std::thread running([&] { loop().run(); });
        if (in_a_hook) hook_runs.wait(false);
        EXPECT_EQ(pthread_cancel(running.native_handle()), 0);
        running.join();
    }
    loop().remove_fd(ready.get());
    kernel.clock_stopped = true;
    clients[0]->send("and I?");
    EXPECT_TRUE(turn_until([&] { return clients[0]->bytes == "and I?"; }));
}

// ---- limits for each, none over all ------------------------------------------------------------

TEST_F(FaultTest, AllTogetherHoldNoMoreThanTheirLimit) {
    make_loop({.high_water = 1 << 20, .max_memory = 4 << 20});
    kernel.send = [](int, const void*, std::size_t, int) { return fail_with(EAGAIN); };
    hooks.read = [&](Conn& conn) {
        std::size_t size = conn.input() == "much" ? 600'000 : 100;
        take_all(conn);
        conn.write(std::string(size, 'x'));
    };
    accepted_client().send("little");
    for (int i = 0; i < 20; ++i) accepted_client().send("much");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 21; }));
    turn(3);
    EXPECT_GE(hooks.closed, 20 - 7);
    EXPECT_LE(hooks.closed, 20 - 3) << "no more than need to";
    for (int error : hooks.errors) EXPECT_EQ(error, ENOBUFS);
    std::size_t unsent = 0;
    for (const Conn* conn : hooks.open) unsent += conn->unsent();
    EXPECT_LE(unsent, 4u << 20);
    kernel.send = {};
    EXPECT_TRUE(turn_until([&] { return clients[0]->bytes.size() == 100; })) << "who holds little";
}

TEST_F(FaultTest, AllTogetherHoldNoMoreAfterAnyTurn) {
    make_loop({.max_memory = 4 << 20, .tick = 1000ms});
    kernel.send = [](int, const void*, std::size_t, int) { return fail_with(EAGAIN); };
    for (int i = 0; i < 20; ++i) accepted_client();
    hooks.tick = [&] {
        for (const Conn* conn : hooks.open) loop().conn(conn->id())->write(pattern(600'000));
    };
    pass(1000ms);
    turn();
    EXPECT_EQ(hooks.closed, 20 - 6);
}

TEST_F(FaultTest, WhoIsOverAnywayMakesRoomForTheOthers) {
    make_loop({.max_memory = 1 << 20});
    kernel.send = [](int, const void*, std::size_t, int) { return fail_with(EAGAIN); };
    hooks.read = [](Conn& conn) {
        conn.write(std::string(conn.input() == "much" ? 900'000 : 300'000, 'x'));
        if (conn.input() == "much") conn.abort();
        else take_all(conn);
    };
    Client& little = accepted_client();
    Client& much = accepted_client();
    little.send("little");
    much.send("much");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 2; }));
    turn(3);
    EXPECT_EQ(hooks.errors, std::vector{ECONNABORTED});
}

// ---- calls that are not made -------------------------------------------------------------------

TEST_F(FaultTest, SendIsNotCalledBeforeTheKernelHasRoom) {
    int sends = 0;
    kernel.send = [&](int, const void*, std::size_t, int) {
        ++sends;
        return fail_with(EAGAIN);
    };
    Client& client = accepted_client();
    // A socket is always writable here, so EPOLLOUT must be kept from the loop as well.
    kernel.epoll_wait = [](int epoll, epoll_event* events, int most, int) {
        int count = real::epoll_wait(epoll, events, most, 1);
        for (int i = 0; i < count; ++i) events[i].events &= ~EPOLLOUT;
        return count;
    };
    for (int i = 0; i < 20; ++i) {
        client.send("x");
        turn(2);
    }
    EXPECT_EQ(hooks.reads, 20);
    EXPECT_EQ(sends, 1);
}

TEST_F(FaultTest, AConnectionCostsOneCallOfEpollCtl) {
    std::map<int, int> calls;
    kernel.epoll_ctl = [&](int epoll, int operation, int fd, epoll_event* event) {
        ++calls[operation];
        return real::epoll_ctl(epoll, operation, fd, event);
    };
    for (int i = 0; i < 10; ++i) {
        Client& client = accepted_client();
        client.send("x");
        EXPECT_TRUE(turn_until([&] { return client.bytes == "x"; }));
        client.close();
        EXPECT_TRUE(turn_until([&] { return hooks.closed == i + 1; }));
    }
    EXPECT_EQ(calls[EPOLL_CTL_ADD], 10);
    EXPECT_EQ(calls[EPOLL_CTL_MOD], 0);
    EXPECT_EQ(calls[EPOLL_CTL_DEL], 0);
}

// A timer that repeats is only set again when it is read.
TEST_F(FaultTest, EveryTickWakesALoopThatSleeps) {
    kernel.clock_stopped = false;
    make_loop({.tick = 5ms});
    hooks.tick = [&] {
        if (hooks.ticks == 5) loop().stop();
    };
    loop().run();
    EXPECT_EQ(hooks.ticks, 5);
}
