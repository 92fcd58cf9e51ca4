// fd.h: descriptors that close themselves, and errors that end the set-up.

#pragma once

#include "common/streams.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
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

// Set-up that fails is said on stderr, and ends the program with 1. Once there are clients, no
// error of theirs may do that.
inline void check(bool done, const char* what) {
    if (done) return;
    say("%s: %s", what, std::strerror(errno));
    std::exit(1);
}

// The result of a system call that must not fail: -1 means that errno says why.
inline int check(int result, const char* what) {
    check(result != -1, what);
    return result;
}
