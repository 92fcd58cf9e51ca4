#include "fake_kernel.h"

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <sys/timerfd.h>

Kernel kernel;

int fail_with(int error) {
    errno = error;
    return -1;
}

extern "C" {
int __real_epoll_wait(int epoll, epoll_event* events, int most, int timeout);
int __real_epoll_ctl(int epoll, int operation, int fd, epoll_event* event);
int __real_accept4(int fd, sockaddr* address, socklen_t* length, int flags);
int __real_connect(int fd, const sockaddr* address, socklen_t length);
ssize_t __real_recv(int fd, void* bytes, std::size_t size, int flags);
ssize_t __real_send(int fd, const void* bytes, std::size_t size, int flags);
ssize_t __real_write(int fd, const void* bytes, std::size_t size);
int __real_poll(pollfd* fds, nfds_t count, int timeout);
int __real_clock_gettime(clockid_t clock, timespec* time);
int __real_timerfd_settime(int fd, int flags, const itimerspec* next, itimerspec* before);

int __wrap_epoll_wait(int epoll, epoll_event* events, int most, int timeout) {
    constexpr int moment = 1;  // ms
    if (!kernel.clock_stopped && !kernel.epoll_wait)
        return __real_epoll_wait(epoll, events, most, timeout);  // perhaps on several threads
    if (kernel.epoll_wait) return kernel.epoll_wait(epoll, events, most, timeout);
    int count =
        __real_epoll_wait(epoll, events, most, timeout < 0 ? moment : std::min(timeout, moment));
    kernel.quiet_waits = count == 0 && timeout != 0 ? kernel.quiet_waits + 1 : 0;
    if (count != 0 || !kernel.time_flies) return count;
    auto rings = kernel.timer_first;
    while (rings <= kernel.now) rings += kernel.timer_period;
    auto times_out = kernel.now + std::chrono::milliseconds(timeout);
    kernel.now = timeout < 0 ? rings : std::min(rings, times_out);
    return 0;
}

int __wrap_epoll_ctl(int epoll, int operation, int fd, epoll_event* event) {
    if (kernel.epoll_ctl) return kernel.epoll_ctl(epoll, operation, fd, event);
    return __real_epoll_ctl(epoll, operation, fd, event);
}

int __wrap_accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
    if (kernel.accept4) return kernel.accept4(fd, address, length, flags);
    return __real_accept4(fd, address, length, flags);
}

int __wrap_connect(int fd, const sockaddr* address, socklen_t length) {
    if (kernel.connect) return kernel.connect(fd, address, length);
    return __real_connect(fd, address, length);
}

ssize_t __wrap_recv(int fd, void* bytes, std::size_t size, int flags) {
    if (kernel.recv) return kernel.recv(fd, bytes, size, flags);
    return __real_recv(fd, bytes, size, flags);
}

ssize_t __wrap_send(int fd, const void* bytes, std::size_t size, int flags) {
    if (kernel.send) return kernel.send(fd, bytes, size, flags);
    return __real_send(fd, bytes, size, flags);
}

ssize_t __wrap_write(int fd, const void* bytes, std::size_t size) {
    if (kernel.write) return kernel.write(fd, bytes, size);
    return __real_write(fd, bytes, size);
}

int __wrap_poll(pollfd* fds, nfds_t count, int timeout) {
    if (kernel.poll) return kernel.poll(fds, count, timeout);
    return __real_poll(fds, count, timeout);
}

int __wrap_timerfd_settime(int fd, int flags, const itimerspec* next, itimerspec* before) {
    bool is_the_loops = flags & TFD_TIMER_ABSTIME;
    if (!kernel.clock_stopped || !is_the_loops)
        return __real_timerfd_settime(fd, flags, next, before);
    auto ms = [](timespec t) {
        return std::chrono::milliseconds(t.tv_sec * 1000 + t.tv_nsec / 1'000'000);
    };
    kernel.timer_first = ms(next->it_value);
    kernel.timer_period = ms(next->it_interval);
    return 0;
}

int __wrap_clock_gettime(clockid_t clock, timespec* time) {
    if (!kernel.clock_stopped) return __real_clock_gettime(clock, time);
    time->tv_sec = kernel.now.count() / 1000;
    time->tv_nsec = kernel.now.count() % 1000 * 1'000'000;
    return 0;
}
}

namespace real {
int epoll_wait(int epoll, epoll_event* events, int most, int timeout) {
    return __real_epoll_wait(epoll, events, most, timeout);
}
int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) {
    return __real_epoll_ctl(epoll, operation, fd, event);
}
int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
    return __real_accept4(fd, address, length, flags);
}
int connect(int fd, const sockaddr* address, socklen_t length) {
    return __real_connect(fd, address, length);
}
ssize_t recv(int fd, void* bytes, std::size_t size, int flags) {
    return __real_recv(fd, bytes, size, flags);
}
ssize_t send(int fd, const void* bytes, std::size_t size, int flags) {
    return __real_send(fd, bytes, size, flags);
}
ssize_t write(int fd, const void* bytes, std::size_t size) { return __real_write(fd, bytes, size); }
}  // namespace real
