// libev.cpp: the framed echo on libev. It says who is ready; receiving and sending is ours.

#include "echo.h"

#include <ev.h>

struct Connection {
    ev_io io;  // first: libev hands us its address
    Client client;
};

void on_ready(struct ev_loop* loop, ev_io* io, int events) {
    auto* c = reinterpret_cast<Connection*>(io);
    bool alive = (!(events & EV_WRITE) || c->client.on_writable()) &&
                 (!(events & EV_READ) || c->client.on_readable());
    if (!alive) {
        ev_io_stop(loop, io);
        delete c;
        return;
    }
    int wanted = c->client.wants_to_send() ? EV_WRITE : EV_READ;
    if ((io->events & (EV_READ | EV_WRITE)) == wanted) return;
    ev_io_stop(loop, io);
    ev_io_set(io, io->fd, wanted);
    ev_io_start(loop, io);
}

void on_accept(struct ev_loop* loop, ev_io* listener, int) {
    Fd fd{accept4(listener->fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
    if (!fd) return;
    auto* c = new Connection{.io = {}, .client = {.fd = std::move(fd)}};
    ev_io_init(&c->io, on_ready, c->client.fd.get(), EV_READ);
    ev_io_start(loop, &c->io);
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, "libev", 9100);
    Fd listener = listen_on(options, SOCK_NONBLOCK);
    struct ev_loop* loop = ev_default_loop(EVBACKEND_EPOLL);
    ev_io accepting;
    ev_io_init(&accepting, on_accept, listener.get(), EV_READ);
    ev_io_start(loop, &accepting);
    announce(options);
    ev_run(loop, 0);
}
