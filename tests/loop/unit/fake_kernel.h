// fake_kernel.h: the system calls of the loop, with a place to stand between the two.
//
// The library is the production object, untouched. The linker sends its calls here (link.opts:
// --wrap=recv turns recv() into __wrap_recv(), and __real_recv() is what recv() was). Each call
// goes on to the kernel, unless a test has put a function of its own in the way.

#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

// The originals. The clients of a test use them, so that what it injects reaches only the loop.
namespace real {
int epoll_wait(int epoll, epoll_event* events, int most, int timeout);
int epoll_ctl(int epoll, int operation, int fd, epoll_event* event);
int accept4(int fd, sockaddr* address, socklen_t* length, int flags);
int connect(int fd, const sockaddr* address, socklen_t length);
ssize_t recv(int fd, void* bytes, std::size_t size, int flags);
ssize_t send(int fd, const void* bytes, std::size_t size, int flags);
ssize_t write(int fd, const void* bytes, std::size_t size);
}  // namespace real

struct Kernel {
    // Called in place of the original if set.
    std::function<int(int, epoll_event*, int, int)> epoll_wait;
    std::function<int(int, int, int, epoll_event*)> epoll_ctl;
    std::function<int(int, sockaddr*, socklen_t*, int)> accept4;
    std::function<int(int, const sockaddr*, socklen_t)> connect;
    std::function<ssize_t(int, void*, std::size_t, int)> recv;
    std::function<ssize_t(int, const void*, std::size_t, int)> send;
    std::function<ssize_t(int, const void*, std::size_t)> write;
    std::function<int(pollfd*, nfds_t, int)> poll;

    // With the clock stopped, time passes only when a test adds to `now`. epoll_wait() then waits
    // for events as ever, but returns after a moment of real time without them, with nothing. A
    // timer that is set to a time of that clock does not run.
    bool clock_stopped = false;
    std::chrono::milliseconds now{};
    std::chrono::milliseconds timer_first{}, timer_period{};

    // With this too, a wait in which nothing comes lasts its whole time out, or until the timer, at
    // no cost.
    bool time_flies = false;

    int quiet_waits = 0;  // calls of epoll_wait() in a row that could sleep, and saw nothing
};

extern Kernel kernel;

// Puts everything back at the end of a test.
struct KernelGuard {
    ~KernelGuard() { kernel = Kernel{}; }
};

// -1, with errno.
int fail_with(int error);
