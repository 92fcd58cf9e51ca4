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

// A TCP socket that listens on options.address, where port 0 then becomes the real one. `flags` may
// add SOCK_NONBLOCK. With `shared`, several may listen there, and the kernel spreads the clients
// over them (SO_REUSEPORT, socket(7)).
inline Fd listen_on(Options& options, int flags = 0, bool shared = false) {
    Address& address = options.address;
    Fd listener{check(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | flags, 0), "socket")};

    // Without this, bind() fails for a minute after a restart, while connections of the last run
    // are in TIME_WAIT.
    turn_on(listener.get(), SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");

    // Accepted sockets inherit it. With Nagle's algorithm, the second part of a reply would wait
    // for the client's delayed ACK: 40 ms.
    turn_on(listener.get(), IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY");

    if (shared) turn_on(listener.get(), SOL_SOCKET, SO_REUSEPORT, "SO_REUSEPORT");
    std::string what = "bind " + to_string(address);
    check(bind(listener.get(), address.data(), address.length), what.c_str());
    check(listen(listener.get(), SOMAXCONN), "listen");
    address = local_address(listener.get());
    return listener;
}

// The one line on stdout. From here on clients can connect: the kernel queues them.
inline void announce(const Options& options) {
    std::printf("%s listening on %s\n", options.name, to_string(options.address).c_str());
    std::fflush(stdout);
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

// Did accept() fail because this process or the system is out of something? Every other error is
// that of one connection, which is gone: the next one may be fine (accept(2), "Error handling").
inline bool out_of_resources(int error) {
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

// Send all of `bytes` on a blocking socket, however long that takes. False if the peer is gone.
inline bool send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        // MSG_NOSIGNAL: a peer that has gone is an error to look at (EPIPE). Without it, it is a
        // signal that ends this process (SIGPIPE).
        ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1) return false;
        bytes.remove_prefix(n);  // send() may take only a part
    }
    return true;
}
