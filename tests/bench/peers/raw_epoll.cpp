// raw_epoll.cpp: the limit. Level-triggered epoll, one recv and one send, and no library.

#include "echo.h"

#include <chrono>
#include <span>
#include <sys/epoll.h>

// Microseconds for which it asks again before it goes to sleep. With 0, the rule, it sleeps at
// once.
#ifndef SPIN_US
#define SPIN_US 0
#endif

struct Connection {
    Client client;
    std::uint32_t watched = EPOLLIN;
};

bool serve(int epoll, Connection& c, std::uint32_t events) {
    if (events & EPOLLOUT && !c.client.on_writable()) return false;
    if (events & ~EPOLLOUT && !c.client.on_readable()) return false;
    // Who does not read is not read from.
    std::uint32_t wanted = c.client.wants_to_send() ? EPOLLOUT : EPOLLIN;
    if (wanted == c.watched) return true;
    c.watched = wanted;
    epoll_event event{.events = wanted, .data = {.ptr = &c}};
    return epoll_ctl(epoll, EPOLL_CTL_MOD, c.client.fd.get(), &event) == 0;
}

void accept_client(int epoll, int listener) {
    Fd fd{accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
    if (!fd) return;
    auto* c = new Connection{.client = {.fd = std::move(fd)}};
    epoll_event event{.events = EPOLLIN, .data = {.ptr = c}};
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, c->client.fd.get(), &event), "epoll_ctl");
}

// To be woken takes longer than to answer. Who asks without sleeping is not, and keeps a core busy.
int wait_ready(int epoll, std::span<epoll_event> ready) {
    if (SPIN_US == 0) return epoll_wait(epoll, ready.data(), ready.size(), -1);
    using clock = std::chrono::steady_clock;
    for (auto end = clock::now() + std::chrono::microseconds(SPIN_US); clock::now() < end;)
        if (int count = epoll_wait(epoll, ready.data(), ready.size(), 0); count != 0) return count;
    return epoll_wait(epoll, ready.data(), ready.size(), -1);
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, "raw-epoll", 9100);
    Fd listener = listen_on(options, SOCK_NONBLOCK);
    Fd epoll{check(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
    epoll_event event{.events = EPOLLIN, .data = {.ptr = nullptr}};
    check(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, listener.get(), &event), "epoll_ctl");
    announce(options);

    for (epoll_event ready[256];;) {
        int count = wait_ready(epoll.get(), ready);
        for (int i = 0; i < count; ++i) {
            auto* c = static_cast<Connection*>(ready[i].data.ptr);
            if (c == nullptr) accept_client(epoll.get(), listener.get());
            else if (!serve(epoll.get(), *c, ready[i].events)) delete c;
        }
    }
}
