// Handlers that throw, memory that runs out, and how much of it is used.

#include "allocations.h"
#include "loop_fixture.h"

#include <fcntl.h>
#include <stdexcept>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>

// ---- exceptions --------------------------------------------------------------------------------

class ExceptionTest : public LoopTest {
protected:
    ExceptionTest() { testing::internal::CaptureStderr(); }
    ~ExceptionTest() override {
        std::string said = testing::internal::GetCapturedStderr();
        EXPECT_NE(said.find("thrown: oh no"), std::string::npos) << said;
    }
    [[noreturn]] static void fail() { throw std::runtime_error("oh no"); }

    // One that was there before is served as if nothing had happened.
    void expect_served(Client& client) {
        client.bytes.clear();
        client.send("and now?");
        EXPECT_TRUE(turn_until([&] { return client.bytes == "and now?"; }));
    }
};

TEST_F(ExceptionTest, InOnAcceptRejectsThatOne) {
    Client& bystander = accepted_client();
    hooks.accept = [](Conn&) -> bool { fail(); };
    Client& client = add_client();
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    hooks.accept = {};
    expect_served(bystander);
    EXPECT_EQ(hooks.closed, 0);
}

TEST_F(ExceptionTest, InOnConnectClosesThatOne) {
    Client& bystander = accepted_client();
    hooks.connect = [](Conn&) { fail(); };
    ASSERT_NE(loop().connect(address), nullptr);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 2; }));  // both its ends
    EXPECT_EQ(hooks.errors[0], ECANCELED);
    expect_served(bystander);
}

TEST_F(ExceptionTest, InOnReadClosesThatOne) {
    Client& bystander = accepted_client();
    Client& client = accepted_client();
    hooks.read = [](Conn& conn) {
        if (conn.input() == "bad") fail();
        echo(conn);
    };
    client.send("bad");
    bystander.send("good");
    EXPECT_TRUE(turn_until([&] { return client.over() && bystander.bytes == "good"; }));
    EXPECT_EQ(hooks.errors, std::vector{ECANCELED});
    expect_served(bystander);
}

TEST_F(ExceptionTest, InOnReadOfWhatWasLeftClosesThatOne) {
    Client& bystander = accepted_client();
    Client& client = accepted_client();
    hooks.read = [](Conn& conn) {
        if (conn.input()[0] == '!') fail();
        conn.write(conn.input().substr(0, 1));
        conn.consume(1);
    };
    client.send("ab!");
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(hooks.errors, std::vector{ECANCELED});
    expect_served(bystander);
}

TEST_F(ExceptionTest, InOnCloseHarmsNobody) {
    Client& bystander = accepted_client();
    Client& client = accepted_client();
    hooks.close = [](Conn&) { fail(); };
    client.close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    expect_served(bystander);
}

TEST_F(ExceptionTest, InOnFdRemovesThatDescriptor) {
    Client& bystander = accepted_client();
    Fd bad{eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC)};
    Fd good{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    int calls = 0;
    hooks.fd = [&](int fd, std::uint32_t) {
        if (fd == bad.get()) ++calls, fail();
        eventfd_t count;
        eventfd_read(fd, &count);
        calls += 100;
    };
    EXPECT_TRUE(loop().add_fd(bad.get(), EPOLLIN));
    EXPECT_TRUE(loop().add_fd(good.get(), EPOLLIN));
    EXPECT_TRUE(turn_until([&] { return calls == 1; }));
    EXPECT_TRUE(rests());
    eventfd_write(good.get(), 1);
    EXPECT_TRUE(turn_until([&] { return calls == 101; }));
    expect_served(bystander);
}

// The number is that of a new connection by then.
TEST_F(ExceptionTest, InOnFdBehindACloseHarmsNobody) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
    Fd reader{ends[0]}, writer{ends[1]};
    Conn* conn = nullptr;
    hooks.fd = [&](int fd, std::uint32_t) {
        loop().remove_fd(fd);
        reader = Fd{};
        conn = loop().connect(address);
        EXPECT_EQ(conn->fd(), fd);
        fail();
    };
    EXPECT_TRUE(loop().add_fd(reader.get(), EPOLLIN));
    writer = Fd{};
    EXPECT_TRUE(turn_until([&] { return hooks.connected == 1; }));
    EXPECT_EQ(loop().conn(conn->id()), conn);
}

TEST_F(ExceptionTest, InOnTickIsNotTheLastTick) {
    Client& bystander = accepted_client();
    hooks.tick = [] { fail(); };
    for (int i = 1; i <= 3; ++i) {
        pass(1000ms);
        EXPECT_TRUE(turn_until([&] { return hooks.ticks == i; }));
    }
    expect_served(bystander);
}

TEST_F(ExceptionTest, OfAnyTypeIsCaught) {
    accepted_client();
    hooks.read = [](Conn&) { throw 42; };
    clients[0]->send("x");
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 1; }));
    hooks.close = [](Conn&) { fail(); };
    accepted_client().close();
    EXPECT_TRUE(turn_until([&] { return hooks.closed == 2; }));
}

// ---- memory that runs out ----------------------------------------------------------------------

class AllocationTest : public LoopTest {
protected:
    AllocationTest() { testing::internal::CaptureStderr(); }
    ~AllocationTest() override { testing::internal::GetCapturedStderr(); }
};

// A client's whole life, in which the k-th allocation fails, for each k. It may be cut short; the
// one beside it may not notice, and the books must balance.
TEST_F(AllocationTest, TheKthThatFailsIsThatConnectionOnly) {
    std::string large = pattern(300'000);
    bool failed = true;
    int k = 0;
    for (; failed && k < 100; ++k) {
        clients.clear();
        hooks.accept = {};
        make_loop();
        hooks.accepted = hooks.closed = 0;
        Client& bystander = accepted_client();
        int accepted = hooks.accepted;
        hooks.accept = [](Conn& conn) { return conn.state = std::string(100, 's'), true; };
        hooks.read = [&](Conn& conn) {
            if (conn.input() == "large") conn.write(large);
            echo(conn);
        };
        Client& client = add_client();
        client.send("small");
        {
            FailAllocation fail(k);
            for (int i = 0; i < 10; ++i) loop().turn();  // nothing else allocates in here
            failed = fail.has_failed();
        }
        client.receive();
        if (!client.over()) client.send_some("large");
        if (!failed) {
            FailAllocation fail(k);
            for (int i = 0; i < 10; ++i) loop().turn();
            failed = fail.has_failed();
        }
        turn(5);
        bystander.send("and I?");
        ASSERT_TRUE(turn_until([&] { return bystander.bytes == "and I?"; })) << "k = " << k;
        client.reset();
        ASSERT_TRUE(turn_until([&] { return loop().connections() == 1; })) << "k = " << k;
        EXPECT_EQ(hooks.accepted - accepted, hooks.closed) << "k = " << k;
    }
    EXPECT_GE(k, 4) << "allocations were made, and failed, one after the other";
    EXPECT_LT(k, 100);
}

TEST_F(AllocationTest, ListenThatFailsLeavesNothingBehind) {
    Fd event_of_ours{eventfd(0, EFD_CLOEXEC)};
    bool failed = true;
    for (int k = 0; failed; ++k) {
        make_loop();
        Options options = any_port();
        Fd listener = listen_on(options);
        int number = listener.get();
        {
            FailAllocation fail(k);
            try {
                loop().listen(std::move(listener));
            } catch (const std::bad_alloc&) {}
            failed = fail.has_failed();
        }
        EXPECT_EQ(fcntl(number, F_GETFD) == -1, failed) << "k = " << k;
        if (failed) {  // its number is free for others
            Fd event{fcntl(event_of_ours.get(), F_DUPFD_CLOEXEC, number)};
            EXPECT_TRUE(loop().add_fd(event.get(), EPOLLIN)) << "k = " << k;
            loop().remove_fd(event.get());
        }
        turn(3);
        accepted_client().send("hello");
        EXPECT_TRUE(turn_until([&] { return clients.back()->bytes == "hello"; }));
    }
}

TEST_F(AllocationTest, InTheQueueOfAStoppingLoopIsThatClientOnly) {
    for (int i = 0; i < 5; ++i) add_client().send("x");
    kernel.accept4 = [&](int fd, sockaddr* address, socklen_t* length, int flags) {
        if (hooks.stops == 0) return fail_with(EAGAIN);
        return real::accept4(fd, address, length, flags);
    };
    loop().stop();
    {
        FailAllocation fail(1);
        loop().turn();
        EXPECT_TRUE(fail.has_failed());
    }
    EXPECT_TRUE(run_to_the_end());
    int answered = 0;
    for (auto& client : clients) {
        client->receive();
        answered += client->bytes == "x";
    }
    EXPECT_EQ(answered, 4);
}

TEST_F(AllocationTest, AddFdThatFailsLeavesNothingBehind) {
    bool failed = true;
    Fd event{eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC)};
    Fd high{fcntl(event.get(), F_DUPFD_CLOEXEC, 900)};
    for (int k = 0; failed; ++k) {
        make_loop();
        int calls = 0;
        hooks.fd = [&](int fd, std::uint32_t) { ++calls, loop().remove_fd(fd); };
        {
            FailAllocation fail(k);
            try {
                loop().add_fd(high.get(), EPOLLIN);
            } catch (const std::bad_alloc&) {}
            failed = fail.has_failed();
        }
        EXPECT_NE(fcntl(high.get(), F_GETFD), -1);
        turn(3);
        EXPECT_EQ(calls, failed ? 0 : 1);
        EXPECT_TRUE(loop().add_fd(high.get(), EPOLLIN));
        EXPECT_TRUE(turn_until([&] { return calls == (failed ? 1 : 2); }));
    }
}

// The kernel has taken the first part of a message when there is no memory for the rest: nothing
// may follow it, and the end must not look like one in good order.
TEST_F(AllocationTest, AWriteThatIsCutShortEndsInAReset) {
    std::string reply = pattern(300'000);
    kernel.send = [](int fd, const void* bytes, std::size_t size, int flags) {
        return real::send(fd, bytes, std::min<std::size_t>(size, 1000), flags);
    };
    Client& client = accepted_client();
    hooks.tick = [&] {
        FailAllocation fail(0);
        try {
            last_conn()->write(reply);
        } catch (const std::bad_alloc&) {}
        last_conn()->write("the next message");
    };
    pass(1000ms);
    turn();
    hooks.tick = {};
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(client.bytes, reply.substr(0, client.bytes.size()));
    EXPECT_EQ(client.error(), ECONNRESET);
    EXPECT_EQ(hooks.closed, 1);
}

// What is left of a large input moves to a small buffer, and need not.
TEST_F(AllocationTest, WhereALargeBufferWouldDoIsNoFailure) {
    hooks.read = [](Conn&) {};
    Client& bystander = accepted_client();
    Client& client = accepted_client();
    client.send(pattern(20'000));
    Conn* conn = last_conn();
    EXPECT_TRUE(turn_until([&] { return conn->input().size() == 20'000; }));
    hooks.tick = [&] { conn->consume(19'900); };
    bool failed;
    {
        FailAllocation fail(0);
        pass(1000ms);  // to the tick, behind which there is only the settling
        for (int i = 0; i < 3; ++i) EXPECT_NO_THROW(loop().turn());
        failed = fail.has_failed();
    }
    hooks.read = {};
    bystander.send("and I?");
    EXPECT_TRUE(turn_until([&] { return bystander.bytes == "and I?"; }));
    EXPECT_TRUE(failed);
    EXPECT_EQ(hooks.closed, 0) << "it stays in the large buffer";
}

// ---- how much is used --------------------------------------------------------------------------

class MemoryTest : public LoopTest {};

TEST_F(MemoryTest, NoAllocationOnTheSteadyPath) {
    hooks.fd = [](int fd, std::uint32_t) {
        eventfd_t count;
        eventfd_read(fd, &count);
    };
    for (int i = 0; i < 10; ++i) accepted_client();
    Fd event{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    EXPECT_TRUE(loop().add_fd(event.get(), EPOLLIN));
    char room[1000];
    auto round_trips = [&](int count) {
        for (int i = 0; i < count; ++i) {
            for (auto& client : clients) real::send(client->fd(), "EVLP: a small message", 21, 0);
            eventfd_write(event.get(), 1);
            for (auto& client : clients)
                for (ssize_t got = 0; got < 21;) {
                    ssize_t n = real::recv(client->fd(), room, sizeof room, MSG_DONTWAIT);
                    if (n > 0) got += n;
                    else loop().turn();
                }
        }
        pass(1000ms);
        loop().turn();
    };
    round_trips(10);
    long before = allocations.made;
    round_trips(1000);
    EXPECT_EQ(allocations.made - before, 0);
}

TEST_F(MemoryTest, NoAllocationWhileTenWaitForTheRest) {
    constexpr std::size_t whole = 40'000;  // bytes: the first half is too large for a small buffer
    hooks.read = [](Conn& conn) {
        if (conn.input().size() != whole) return;
        conn.consume(whole);
        conn.write(".");
    };
    for (int i = 0; i < 10; ++i) accepted_client();
    const std::string bytes = pattern(whole);
    auto messages = [&](int count) {
        for (int i = 0; i < count; ++i) {
            for (std::string_view half : {std::string_view(bytes).substr(0, whole / 2),
                                          std::string_view(bytes).substr(whole / 2)}) {
                for (auto& client : clients)
                    EXPECT_EQ(real::send(client->fd(), half.data(), half.size(), 0),
                              ssize_t(half.size()));
                for (int t = 0; t < 5; ++t) loop().turn();
            }
            char dot = 0;
            for (auto& client : clients)
                for (int t = 0; real::recv(client->fd(), &dot, 1, MSG_DONTWAIT) != 1 && t < 50; ++t)
                    loop().turn();
            EXPECT_EQ(dot, '.');
        }
    };
    messages(3);
    long before = allocations.made;
    messages(100);
    EXPECT_EQ(allocations.made - before, 0);
}

TEST_F(MemoryTest, AMessageInTwoPartsCostsOneAllocation) {
    hooks.read = [](Conn& conn) {
        if (conn.input() == "two parts") echo(conn);
    };
    Client& client = accepted_client();
    turn_on(client.fd(), IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY");
    auto messages = [&](int count) {
        char room[9];
        for (int i = 0; i < count; ++i) {
            client.send("two ");
            for (int reads = hooks.reads; hooks.reads == reads;) loop().turn();
            client.send("parts");
            while (real::recv(client.fd(), room, sizeof room, MSG_DONTWAIT) != 9) loop().turn();
        }
    };
    messages(3);
    long before = allocations.made;
    messages(100);
    EXPECT_EQ(allocations.made - before, 100) << "one for each first part, while it waits";
}

TEST_F(MemoryTest, LargeBuffersAreNotKept) {
    constexpr std::size_t whole = 1 << 20, half = whole / 2;
    hooks.read = [](Conn& conn) {
        if (conn.input().size() == whole) conn.consume(whole);
    };
    std::size_t before = bytes_allocated();
    std::string bytes = pattern(half);
    for (int i = 0; i < 20; ++i) {
        accepted_client();
        last_conn()->write("x");  // the allocations of a first time
    }
    for (int part = 1; part <= 2; ++part)
        for (auto& client : clients)
            for (std::size_t done = 0; done < half;) {
                done += client->send_some(std::string_view(bytes).substr(done));
                turn();
            }
    turn(20);
    for (const Conn* conn : hooks.open) EXPECT_EQ(conn->input(), "");
    EXPECT_LE(bytes_allocated(), before + 16 * (256 << 10) + (1 << 20));
}

TEST_F(MemoryTest, AnIdleConnectionHoldsNoBuffers) {
    for (int i = 0; i < 300; ++i) accepted_client();  // more than are kept for the next
    std::size_t before = bytes_allocated();
    std::string sent = pattern(100'000);
    for (auto& client : clients) {
        client->send(sent);
        EXPECT_TRUE(turn_until([&] { return client->bytes.size() == sent.size(); }));
        std::string().swap(client->bytes);
    }
    turn(5);
    EXPECT_LE(bytes_allocated(), before + (1 << 20)) << "for 300 that are idle again";
}

TEST_F(MemoryTest, TheStartOfALargeMessageDoesNotHoldALargeBuffer) {
    hooks.read = [](Conn&) {};
    for (int i = 0; i < 100; ++i) accepted_client();
    std::size_t before = bytes_allocated();
    for (auto& client : clients) client->send("EVLP\0\x0f\xff\xff and then silence");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 100; }));
    EXPECT_LE(bytes_allocated(), before + 100 * 1024 + (256 << 10));
}

namespace {

// Connects `count` times, says so through `ready`, and keeps them until it is killed. A process of
// its own, so that its descriptors are not in the loop's table.
pid_t idle_clients(const Address& to, int count, int ready) {
    pid_t child = fork();
    if (child != 0) return child;
    for (int i = 0; i < count; ++i) {
        int fd = socket(to.family(), SOCK_STREAM, 0);
        if (fd == -1 || real::connect(fd, to.data(), to.length) == -1) _exit(1);
    }
    eventfd_write(ready, 1);
    for (;;) pause();
}

}  // namespace

TEST_F(MemoryTest, TenThousandIdleConnectionsAreCheap) {
    constexpr int wanted = 10'000;
    rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    rlimit before_limit = limit;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int count = std::min({wanted, static_cast<int>(limit.rlim_cur) - 100, ports() / 2});
    if (count < wanted) std::printf("[  NOTE    ] only %d: see ulimit -Hn, and ports()\n", count);

    hooks.accept = [](Conn&) { return true; };
    std::size_t per_book = 0;  // our own bookkeeping, hooks.open
    {
        std::size_t before = bytes_allocated();
        std::set<const Conn*> book{nullptr};
        per_book = bytes_allocated() - before;
    }
    Fd ready{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    std::size_t before = bytes_allocated();
    pid_t child = idle_clients(address, count, ready.get());
    EXPECT_TRUE(turn_until([&] { return hooks.accepted == count; }));
    EXPECT_TRUE(rests()) << "wake-ups while all are idle";
    std::size_t each = (bytes_allocated() - before) / count - per_book;
    std::printf("[  NOTE    ] %d idle connections: %zu bytes of user memory each\n", count, each);
    EXPECT_LE(each, 200u);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    EXPECT_TRUE(turn_until([&] { return hooks.closed == count; }));
    end_loop();
    setrlimit(RLIMIT_NOFILE, &before_limit);
}
