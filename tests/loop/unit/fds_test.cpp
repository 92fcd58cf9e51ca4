// Extra descriptors of every kind.

#include "allocations.h"
#include "loop_fixture.h"

#include <climits>
#include <csignal>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

namespace {

struct Pipe {
    Fd out, in;  // read from `out` what was written to `in`
    Pipe() {
        int ends[2];
        EXPECT_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
        out = Fd{ends[0]};
        in = Fd{ends[1]};
    }
    void put(std::string_view bytes) {
        EXPECT_EQ(::write(in.get(), bytes.data(), bytes.size()), ssize_t(bytes.size()));
    }
};

std::string drain(int fd) {
    char room[1000];
    std::string bytes;
    for (ssize_t n; (n = ::read(fd, room, sizeof room)) > 0;) bytes.append(room, n);
    return bytes;
}

}  // namespace

class FdsTest : public LoopTest {
protected:
    struct Call {
        int fd;
        std::uint32_t events;
    };
    std::vector<Call> calls;

    // Record, drain.
    void record() {
        hooks.fd = [this](int fd, std::uint32_t events) {
            calls.push_back({fd, events});
            drain(fd);
        };
    }
};

TEST_F(FdsTest, PipeIsReportedWithItsEvents) {
    Pipe pipe;
    record();
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    turn(3);
    EXPECT_TRUE(calls.empty());
    pipe.put("x");
    EXPECT_TRUE(turn_until([&] { return calls.size() == 1; }));
    EXPECT_EQ(calls[0].fd, pipe.out.get());
    EXPECT_EQ(calls[0].events, EPOLLIN + 0u);
    EXPECT_TRUE(rests());
    loop().remove_fd(pipe.out.get());
    pipe.put("y");
    EXPECT_TRUE(rests());
    EXPECT_EQ(calls.size(), 1u);
}

TEST_F(FdsTest, WhatIsLeftIsReportedAgain) {
    Pipe pipe;
    std::string got;
    hooks.fd = [&](int fd, std::uint32_t) {
        char byte;
        if (::read(fd, &byte, 1) == 1) got += byte;
    };
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    pipe.put("level");
    EXPECT_TRUE(turn_until([&] { return got == "level"; }));
}

TEST_F(FdsTest, Eventfd) {
    Fd event{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    eventfd_t count = 0;
    hooks.fd = [&](int fd, std::uint32_t) { eventfd_read(fd, &count); };
    EXPECT_TRUE(loop().add_fd(event.get(), EPOLLIN));
    eventfd_write(event.get(), 3);
    eventfd_write(event.get(), 4);
    EXPECT_TRUE(turn_until([&] { return count == 7; }));
    EXPECT_TRUE(rests());
}

TEST_F(FdsTest, Timerfd) {
    Fd timer{timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
    itimerspec once{{0, 0}, {0, 1'000'000}};
    timerfd_settime(timer.get(), 0, &once, nullptr);
    record();
    EXPECT_TRUE(loop().add_fd(timer.get(), EPOLLIN));
    EXPECT_TRUE(turn_until([&] { return calls.size() == 1; }));
    EXPECT_TRUE(rests());
}

TEST_F(FdsTest, Signalfd) {
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, &before);
    Fd fd{signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC)};
    unsigned signal = 0;
    hooks.fd = [&](int number, std::uint32_t) {
        signalfd_siginfo info;
        if (::read(number, &info, sizeof info) == sizeof info) signal = info.ssi_signo;
    };
    EXPECT_TRUE(loop().add_fd(fd.get(), EPOLLIN));
    pthread_kill(pthread_self(), SIGUSR1);
    EXPECT_TRUE(turn_until([&] { return signal == SIGUSR1; }));
    EXPECT_TRUE(rests());
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_F(FdsTest, ListeningSocket) {
    Options options = any_port();
    Fd listener = listen_on(options, SOCK_NONBLOCK);
    Fd accepted;
    hooks.fd = [&](int fd, std::uint32_t events) {
        EXPECT_EQ(events, EPOLLIN + 0u);
        accepted = Fd{::accept(fd, nullptr, nullptr)};
    };
    EXPECT_TRUE(loop().add_fd(listener.get(), EPOLLIN));
    Client client(options.address);
    EXPECT_TRUE(turn_until([&] { return bool(accepted); }));
    EXPECT_EQ(hooks.accepted, 0) << "it is the handler's, not the loop's";
}

TEST_F(FdsTest, NestedEpoll) {
    Fd inner{epoll_create1(EPOLL_CLOEXEC)};
    Pipe pipe;
    epoll_event event{.events = EPOLLIN, .data = {.fd = pipe.out.get()}};
    real::epoll_ctl(inner.get(), EPOLL_CTL_ADD, pipe.out.get(), &event);
    std::string got;
    hooks.fd = [&](int fd, std::uint32_t) {
        epoll_event ready;
        if (real::epoll_wait(fd, &ready, 1, 0) == 1) got += drain(ready.data.fd);
    };
    EXPECT_TRUE(loop().add_fd(inner.get(), EPOLLIN));
    pipe.put("through two");
    EXPECT_TRUE(turn_until([&] { return got == "through two"; }));
    EXPECT_TRUE(rests());
}

TEST_F(FdsTest, RegularFileIsRefusedWithEperm) {
    Fd file{open("/proc/self/exe", O_RDONLY | O_CLOEXEC)};
    errno = 0;
    EXPECT_FALSE(loop().add_fd(file.get(), EPOLLIN));
    EXPECT_EQ(errno, EPERM);
    EXPECT_NE(fcntl(file.get(), F_GETFD), -1) << "it is the caller's and stays open";
    loop().remove_fd(file.get());
    EXPECT_TRUE(rests());
}

TEST_F(FdsTest, WhatCannotBeWatchedIsAnError) {
    errno = 0;
    EXPECT_FALSE(loop().add_fd(-1, EPOLLIN));
    EXPECT_EQ(errno, EBADF);
    for (int number : {9999, INT_MAX}) {
        std::size_t memory = bytes_allocated();
        EXPECT_FALSE(loop().add_fd(number, EPOLLIN));
        EXPECT_EQ(errno, EBADF);
        EXPECT_FALSE(loop().add_fd(number, 0));
        EXPECT_EQ(bytes_allocated(), memory) << "none for a number that is no descriptor";
    }
    accepted_client();
    EXPECT_FALSE(loop().add_fd(last_conn()->fd(), EPOLLIN));
    EXPECT_EQ(errno, EEXIST) << "a connection of the loop's own";
    loop().remove_fd(last_conn()->fd());
    loop().remove_fd(-1);
    loop().remove_fd(9999);
    clients[0]->send("still served");
    EXPECT_TRUE(turn_until([&] { return clients[0]->bytes == "still served"; }));
}

TEST_F(FdsTest, ABorrowedDescriptorIsNeverClosed) {
    Pipe pipe;
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    loop().remove_fd(pipe.out.get());
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    end_loop();
    EXPECT_NE(fcntl(pipe.out.get(), F_GETFD), -1);
}

TEST_F(FdsTest, AddingAgainChangesTheEvents) {
    Pipe pipe;
    record();
    EXPECT_TRUE(loop().add_fd(pipe.in.get(), EPOLLIN));
    turn(3);
    EXPECT_TRUE(calls.empty());
    EXPECT_TRUE(loop().add_fd(pipe.in.get(), EPOLLOUT));
    EXPECT_TRUE(turn_until([&] { return calls.size() == 1; }));
    EXPECT_EQ(calls[0].events, EPOLLOUT + 0u);
}

// ---- the other side has gone -------------------------------------------------------------------

TEST_F(FdsTest, HangUpComesAfterTheDataAndDoesNotSpin) {
    Pipe pipe;
    std::string got;
    std::vector<std::uint32_t> events;
    hooks.fd = [&](int fd, std::uint32_t mask) {
        events.push_back(mask);
        char byte;
        if (::read(fd, &byte, 1) == 1) got += byte;
    };
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    pipe.put("last");
    pipe.in = Fd{};
    EXPECT_TRUE(turn_until([&] { return !events.empty() && events.back() == EPOLLHUP; }));
    EXPECT_EQ(got, "last");
    std::size_t calls_before = events.size();
    EXPECT_TRUE(rests());
    EXPECT_EQ(events.size(), calls_before);
}

// A socket is readable for ever at its end, EPOLLIN|EPOLLHUP: a handler that reads nothing from it
// has not to know that it must remove it.
TEST_F(FdsTest, ASocketAtItsEndDoesNotSpin) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    Fd ours{ends[0]}, theirs{ends[1]};
    std::string got;
    hooks.fd = [&](int fd, std::uint32_t) { got += drain(fd); };
    EXPECT_TRUE(loop().add_fd(ours.get(), EPOLLIN));
    ASSERT_EQ(::write(theirs.get(), "last", 4), 4);
    theirs = Fd{};
    EXPECT_TRUE(turn_until([&] { return got == "last"; }));
    EXPECT_TRUE(rests());
}

TEST_F(FdsTest, AReaderThatHasGoneIsAnErrorOnceAndDoesNotSpin) {
    Pipe pipe;
    record();
    EXPECT_TRUE(loop().add_fd(pipe.in.get(), 0));
    EXPECT_TRUE(loop().add_fd(pipe.in.get(), EPOLLIN));
    pipe.out = Fd{};
    EXPECT_TRUE(turn_until([&] { return !calls.empty(); }));
    EXPECT_TRUE(calls[0].events & EPOLLERR);
    EXPECT_TRUE(rests());
    EXPECT_EQ(calls.size(), 1u);
}

// The error of a datagram socket is over once it has been read: what comes then is reported.
TEST_F(FdsTest, AnErrorThatIsOverIsNotTheEnd) {
    auto here = *parse_address("127.0.0.1", 0);
    Fd ours{socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    ASSERT_EQ(bind(ours.get(), here.data(), here.length), 0);
    Address theirs;
    {
        Fd closed{socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
        ASSERT_EQ(bind(closed.get(), here.data(), here.length), 0);
        theirs = local_address(closed.get());
        ASSERT_EQ(::connect(ours.get(), theirs.data(), theirs.length), 0);
    }
    record();
    EXPECT_TRUE(loop().add_fd(ours.get(), EPOLLIN));
    EXPECT_EQ(::send(ours.get(), "x", 1, 0), 1);  // nobody is there: ECONNREFUSED follows
    EXPECT_TRUE(turn_until([&] { return calls.size() == 1; }));
    EXPECT_TRUE(calls[0].events & EPOLLERR);
    EXPECT_TRUE(rests());

    Fd peer{socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ASSERT_EQ(bind(peer.get(), theirs.data(), theirs.length), 0);
    Address us = local_address(ours.get());
    EXPECT_EQ(::sendto(peer.get(), "y", 1, 0, us.data(), us.length), 1);
    EXPECT_TRUE(turn_until([&] { return calls.size() == 2; }));
    EXPECT_EQ(calls[1].events, EPOLLIN + 0u);
}

// ---- removed -----------------------------------------------------------------------------------

TEST_F(FdsTest, RemovedInItsOwnCallback) {
    Pipe pipe;
    hooks.fd = [&](int fd, std::uint32_t events) {
        calls.push_back({fd, events});
        loop().remove_fd(fd);
        loop().remove_fd(fd);
        pipe.out = Fd{};
    };
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    pipe.put("x");
    pipe.in = Fd{};
    EXPECT_TRUE(turn_until([&] { return calls.size() == 1; }));
    EXPECT_TRUE(rests());
    EXPECT_EQ(calls.size(), 1u);
}

TEST_F(FdsTest, AddedAgainInItsOwnCallback) {
    Pipe pipe;
    hooks.fd = [&](int fd, std::uint32_t events) {
        calls.push_back({fd, events});
        drain(fd);
        loop().remove_fd(fd);
        EXPECT_TRUE(loop().add_fd(fd, EPOLLIN));
    };
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    for (std::size_t i = 1; i <= 3; ++i) {
        pipe.put("x");
        EXPECT_TRUE(turn_until([&] { return calls.size() == i; }));
        EXPECT_TRUE(rests());
        EXPECT_EQ(calls.size(), i);
    }
}

TEST_F(FdsTest, AddedAndRemovedAHundredThousandTimesInOneCallback) {
    Pipe pipe;
    hooks.fd = [&](int fd, std::uint32_t events) {
        calls.push_back({fd, events});
        drain(fd);
        for (int i = 0; i < 100'000; ++i) EXPECT_TRUE(loop().add_fd(fd, i % 2 ? EPOLLIN + 0u : 0u));
    };
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    pipe.put("x");
    EXPECT_TRUE(turn_until([&] { return calls.size() == 1; }));
    pipe.put("y");
    EXPECT_TRUE(turn_until([&] { return calls.size() == 2; }));
}

TEST_F(FdsTest, AddedAndRemovedAMillionTimesWithoutATurn) {
    Pipe pipe;
    for (int i = 0; i < 1'000'000; ++i) EXPECT_TRUE(loop().add_fd(pipe.out.get(), 0));
    end_loop();
}

// Both are ready in one batch. The first removes the second, whose event must not arrive.
TEST_F(FdsTest, RemovedByAnotherInTheSameBatch) {
    Pipe a, b;
    hooks.fd = [&](int fd, std::uint32_t events) {
        calls.push_back({fd, events});
        loop().remove_fd(fd == a.out.get() ? b.out.get() : a.out.get());
        drain(fd);
    };
    EXPECT_TRUE(loop().add_fd(a.out.get(), EPOLLIN));
    EXPECT_TRUE(loop().add_fd(b.out.get(), EPOLLIN));
    int told = 0;
    kernel.epoll_ctl = [&](int epoll, int operation, int fd, epoll_event* event) {
        ++told;
        return real::epoll_ctl(epoll, operation, fd, event);
    };
    a.put("x");
    b.put("x");
    EXPECT_TRUE(turn_until([&] { return !calls.empty(); }));
    EXPECT_TRUE(rests());
    EXPECT_EQ(calls.size(), 1u);
    EXPECT_EQ(told, 1) << "that it is removed; one stale event is no reason for a new list";
}

// The same, and the number is in use again before the stale event is looked at.
TEST_F(FdsTest, ANumberUsedAgainInTheSameBatchGetsNoStaleEvent) {
    Pipe a, b;
    auto fresh = std::make_unique<Pipe>();
    hooks.fd = [&](int fd, std::uint32_t events) {
        calls.push_back({fd, events});
        drain(fd);
        if (calls.size() > 1) return;
        Pipe& other = fd == a.out.get() ? b : a;
        int number = other.out.get();
        loop().remove_fd(number);
        EXPECT_EQ(dup3(fresh->out.get(), number, O_CLOEXEC), number);  // closes it, reopens it
        EXPECT_TRUE(loop().add_fd(number, EPOLLIN));
    };
    EXPECT_TRUE(loop().add_fd(a.out.get(), EPOLLIN));
    EXPECT_TRUE(loop().add_fd(b.out.get(), EPOLLIN));
    a.put("x");
    b.put("x");
    turn();
    EXPECT_EQ(calls.size(), 1u) << "the new pipe is empty";
    fresh->put("new");
    EXPECT_TRUE(turn_until([&] { return calls.size() == 2; }));
}

// And by a connection: the owner closes the descriptor in a callback, and the next client gets the
// number.
TEST_F(FdsTest, ClosedByItsOwnerFirstAndItsNumberAccepted) {
    Pipe pipe;
    record();
    int number = pipe.out.get();
    EXPECT_TRUE(loop().add_fd(number, EPOLLIN));
    pipe.put("x");
    pipe.out = Fd{};
    Client& client = add_client();  // takes the number
    EXPECT_EQ(client.fd(), number);
    Fd copy{fcntl(client.fd(), F_DUPFD_CLOEXEC, 500)};
    clients.clear();
    EXPECT_TRUE(turn_until([&] { return hooks.accepted == 1; }));  // takes it back
    ASSERT_EQ(last_conn()->fd(), number);
    loop().remove_fd(number);
    EXPECT_EQ(loop().conn(last_conn()->id()), last_conn()) << "it is a connection's now";
    real::send(copy.get(), "hello", 5, 0);
    char room[10];
    EXPECT_TRUE(turn_until([&] { return real::recv(copy.get(), room, 10, MSG_DONTWAIT) == 5; }));
    EXPECT_TRUE(calls.empty());
}

TEST_F(FdsTest, RemovedAfterItsOwnerHasClosedIt) {
    Pipe pipe;
    record();
    EXPECT_TRUE(loop().add_fd(pipe.out.get(), EPOLLIN));
    int number = pipe.out.get();
    pipe.out = Fd{};
    loop().remove_fd(number);
    EXPECT_TRUE(rests());
    EXPECT_FALSE(loop().add_fd(number, EPOLLIN));
    EXPECT_EQ(errno, EBADF);
    EXPECT_TRUE(rests());
}
