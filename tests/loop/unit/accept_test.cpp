// Who comes in: accept4(), its errors, its limits.

#include "loop_fixture.h"

#include <sys/eventfd.h>
#include <sys/resource.h>

class AcceptTest : public LoopTest {};

TEST_F(AcceptTest, RejectedClientHasNoOnClose) {
    hooks.accept = [](Conn&) { return false; };
    Client& client = add_client();
    EXPECT_TRUE(turn_until([&] { return client.over(); }));
    EXPECT_EQ(hooks.closed, 0);
    EXPECT_EQ(loop().connections(), 0u);
}

TEST_F(AcceptTest, WhatDoesNotListenIsNotListenedTo) {
    Fd unbound{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    EXPECT_FALSE(loop().listen(std::move(unbound)));
    EXPECT_EQ(errno, EINVAL);
    EXPECT_FALSE(loop().listen(Fd{eventfd(0, EFD_CLOEXEC)}));
    EXPECT_EQ(errno, ENOTSOCK);
    EXPECT_FALSE(loop().listen(Fd{}));
    EXPECT_EQ(errno, EBADF);
}

TEST_F(AcceptTest, AListenerThatCannotBeWatchedLeavesItsNumberToOthers) {
    Options options = any_port();
    Fd listener = listen_on(options);
    int number = listener.get();
    kernel.epoll_ctl = [](int, int, int, epoll_event*) { return fail_with(ENOSPC); };
    EXPECT_FALSE(loop().listen(std::move(listener)));
    EXPECT_EQ(errno, ENOSPC);
    kernel.epoll_ctl = {};
    Fd event{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    EXPECT_EQ(event.get(), number);
    EXPECT_TRUE(loop().add_fd(event.get(), EPOLLIN));
    loop().remove_fd(event.get());
}

TEST_F(AcceptTest, NewClientsGetAShareOfALargeBatch) {
    for (int i = 0; i < 64; ++i) accepted_client();
    for (int i = 0; i < 200; ++i) add_client();
    int turns = 0;
    for (; hooks.accepted < 264 && turns < 100; ++turns) {
        for (int i = 0; i < 64; ++i) clients[i]->send_some("busy");
        turn();
    }
    EXPECT_LE(turns, 200 / (64 / 8) + 1);
}

TEST_F(AcceptTest, AThousandResetBeforeAcceptHarmNobody) {
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < 100; ++i) Client(address).reset();
        turn(5);
    }
    Client& client = accepted_client();
    client.send("alive");
    EXPECT_TRUE(turn_until([&] { return client.bytes == "alive" && loop().connections() == 1; }));
    EXPECT_EQ(hooks.accepted, hooks.closed + 1);
}

// epoll(7), max_user_watches.
TEST_F(AcceptTest, NoSpaceInEpollClosesThatConnectionWithTheError) {
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

TEST_F(AcceptTest, BeyondTheCapOfConnectionsClientsWaitInTheQueue) {
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

TEST_F(AcceptTest, AListenerThatCannotBeWatchedAgainIsTriedAgain) {
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
TEST_F(AcceptTest, OneClientIsAcceptedInATurnAndTheQueueIsNeverFoundEmpty) {
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

class OutOfResourcesTest : public LoopTest, public testing::WithParamInterface<int> {
protected:
    // From now on accept4() says so. Returns a client that waits for it.
    Client& waiting_client() {
        kernel.accept4 = [&](int fd, sockaddr* address, socklen_t* length, int flags) {
            ++calls;
            if (out) return fail_with(GetParam());
            return real::accept4(fd, address, length, flags);
        };
        Client& client = add_client();
        client.send("hello");
        EXPECT_TRUE(turn_until([&] { return calls > 0; }));
        return client;
    }
    int calls = 0;
    bool out = true;
};

// The queue stays full and so "ready": the loop must not run after it, and must come back to it.
TEST_P(OutOfResourcesTest, PausesTheListenerUntilTheNextTick) {
    Client& client = waiting_client();
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
    Client& client = waiting_client();
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
