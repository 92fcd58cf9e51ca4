// process.h: how a server begins and ends when it is replaced while its clients go on.

#pragma once

#include "common/net.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

// ---- The beginning: listeners ------------------------------------------------------------------

// How many listeners whoever has started us has left open, from descriptor 3 on. The environment
// says so, and for which process it is meant (sd_listen_fds(3)). Who connects while one server goes
// and the next one comes waits in their queue.
inline int inherited_listeners() {
    const char* process = std::getenv("LISTEN_PID");
    const char* count = std::getenv("LISTEN_FDS");
    bool for_us = process && count && std::atoi(process) == getpid();
    return for_us ? std::atoi(count) : 0;
}

// Our listener number 0, 1, ...: an inherited one, as long as there are some, and else a new one.
inline Fd take_listener(Options& options, int number, bool shared) {
    if (number >= inherited_listeners()) return listen_on(options, SOCK_NONBLOCK, shared);
    Fd listener{3 + number};
    check(fcntl(listener.get(), F_SETFD, FD_CLOEXEC), "inherited listener");
    turn_on(listener.get(), IPPROTO_TCP, TCP_NODELAY, "inherited listener");
    options.address = local_address(listener.get());
    return listener;
}

// ---- The end: signals --------------------------------------------------------------------------

// SIGINT and SIGTERM wait in the kernel, to be read from a descriptor like any other. Made before
// any thread, so that all threads block them (pthread_sigmask(3)).
class StopSignals {
public:
    StopSignals() {
        sigemptyset(&signals_);
        for (int signal : {SIGINT, SIGTERM})
            if (!is_ignored(signal)) sigaddset(&signals_, signal);
        pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
        fd_ = Fd{check(signalfd(-1, &signals_, SFD_NONBLOCK | SFD_CLOEXEC), "signalfd")};
    }

    int fd() const { return fd_.get(); }  // readable when one has come

    // Which one has come, or 0. The next one ends the process at once.
    int take() {
        signalfd_siginfo signal{};
        if (read(fd(), &signal, sizeof signal) == -1) return 0;
        pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr);
        return static_cast<int>(signal.ssi_signo);
    }

private:
    // A shell ignores SIGINT for what it starts with "&": Ctrl-C is not meant for that. It stays so
    // across execve(2). A blocked signal would wait for us all the same.
    static bool is_ignored(int signal) {
        struct sigaction now {};
        sigaction(signal, nullptr, &now);
        return now.sa_handler == SIG_IGN;
    }

    sigset_t signals_;
    Fd fd_;
};
