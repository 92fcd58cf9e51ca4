// net.h: the socket calls that every stage makes in the same way.

#pragma once

#include "common/address.h"
#include "common/fd.h"
#include "common/options.h"

#include <netinet/tcp.h>
#include <string>
#include <string_view>
#include <sys/socket.h>

inline void turn_on(int fd, int level, int option, const char* what) {
    int on = 1;
    check(setsockopt(fd, level, option, &on, sizeof on), what);
}

// Options of a socket that will listen, each with its story.
inline void set_options(int listener, bool shared) {
    // A restart would fail for a minute if the last run had closed a connection before its client
    // did: our end of it is in TIME_WAIT, and bind() says EADDRINUSE.
    turn_on(listener, SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");

    // Accepted sockets inherit it. With Nagle's algorithm, the second part of a reply would wait
    // for the client's delayed ACK: 40 ms.
    turn_on(listener, IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY");

    // Several sockets may listen on one port, and the kernel spreads the clients over them
    // (socket(7)). Stage 7 uses it.
    if (shared) turn_on(listener, SOL_SOCKET, SO_REUSEPORT, "SO_REUSEPORT");
}

// A TCP socket that listens on options.address. `flags` may add SOCK_NONBLOCK.
inline Fd listen_on(Options& options, int flags = 0, bool shared = false) {
    Address& address = options.address;
    Fd listener{check(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | flags, 0), "socket")};
    set_options(listener.get(), shared);
    std::string what = "bind " + to_string(address);
    check(bind(listener.get(), address.data(), address.length), what.c_str());
    check(listen(listener.get(), SOMAXCONN), "listen");
    address = local_address(listener.get());  // port 0 has become a real one
    return listener;
}

// The one line on stdout. From here on clients can connect: the kernel queues them.
inline void announce(const Options& options) {
    std::string address = to_string(options.address);
    std::string line = std::string(options.name) + " listening on " + address + "\n";
    check(write_all(STDOUT_FILENO, line), "stdout");
}

// May accept() be tried again at once? Yes after a signal, and when the error is that of a single
// connection, which is gone by then (accept(2), "Error handling"). Any other error would only be
// reported again: no descriptor is free, or this socket does not listen any more.
inline bool may_accept_again(int error) {
    for (int passing : {EINTR, ECONNABORTED, ENETDOWN, EPROTO, ENOPROTOOPT, EHOSTDOWN, ENONET,
                        EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH})
        if (error == passing) return true;
    return false;
}

// The system call `what` has failed. Unless a signal interrupted it (EINTR), it would fail again at
// once: say why, and rest for a second. There is no better idea.
inline void warn_and_rest(const char* what) {
    if (errno == EINTR) return;
    warn(what);
    sleep(1);
}

// Did accept() fail because this process or the system is out of something? The clients stay in the
// queue, and may be accepted when a descriptor or memory has been given back (accept(2)).
inline bool out_of_resources(int error) {
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

// Send all of `bytes` on a blocking socket, however long that takes. False if the peer is gone.
inline bool send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        // MSG_NOSIGNAL: without it, send() on a connection that is known to be broken ends this
        // process (SIGPIPE). With it, that is an error to look at (EPIPE).
        ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1) return false;
        bytes.remove_prefix(n);  // send() may take only a part
    }
    return true;
}
