// fd.h: descriptors that close themselves, and errors that end the set-up.

#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <unistd.h>
#include <utility>

// Owns one file descriptor and closes it exactly once. -1 means "none".
//
// What takes a plain `int` borrows; what takes or holds an Fd owns.
class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}

    Fd(Fd&& other) noexcept : fd_(other.release()) {}
    Fd& operator=(Fd&& other) noexcept {
        Fd old{std::exchange(fd_, other.release())};
        return *this;
    }

    // close() is not tried again after EINTR: on Linux the number is free by then, and may already
    // belong to someone else (close(2), "Dealing with error returns from close()").
    ~Fd() {
        if (fd_ != -1) close(fd_);
    }

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ != -1; }

    // Give up the descriptor without closing it.
    int release() { return std::exchange(fd_, -1); }

private:
    int fd_ = -1;
};

// The result of a system call; when it failed, say why and exit(1).
//
// For the set-up only: once there are clients, no error of theirs may end the process.
inline int check(int result, const char* what) {
    if (result != -1) return result;
    std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
    std::exit(1);
}

// Say on stderr why `what` failed (errno, which is kept). The same reason twice in a row is said
// once a minute: a server that cannot accept would otherwise fill the disk with it.
inline void warn(const char* what) {
    static thread_local int last = 0;
    static thread_local std::time_t said = 0;  // seconds
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (errno == last && now.tv_sec - said < 60) return;
    last = errno;
    said = now.tv_sec;
    std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
    errno = last;
}
