// 06-write-buffering: what cannot be sent now waits in memory, and we wait for nobody.
//
// New here:    EPOLLOUT while output is pending; interest derived from state; above a high-water
//              mark we stop reading; a client that has finished sending still gets all its bytes.
// Still wrong: protocol, buffers and epoll are one piece of code; a fast sender holds the loop;
//              when no descriptor is free, queued clients hang until another one connects.
//
// Build: g++ -std=c++20 -O2 -I. 06-write-buffering/server.cpp -o server

#include "common/net.h"

#include <new>
#include <string>
#include <sys/epoll.h>
#include <unordered_map>
#include <vector>

constexpr Stage stage{"06-write-buffering", 9006};

constexpr std::size_t high_water = 1 << 20;  // bytes held for a client before we stop reading

struct Client {
    Fd fd;
    std::string unsent{};  // received, and not yet sent back
    bool eof = false;  // it has finished sending, and may still be reading
    std::uint32_t watched = 0;  // what epoll was last told

    std::uint32_t interest() const;
};

struct Server {
    Fd listener;
    Fd epoll{check(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
    std::unordered_map<int, Client> clients{};  // by descriptor

    bool watch(int fd, std::uint32_t events, int operation = EPOLL_CTL_ADD);
    bool update(Client& client);
    const std::vector<int>& wait_ready();
    void accept_clients();
    bool flush(Client& client);
    bool echo(Client& client);
    void remove(int fd);
    void serve(int fd);
};

// What we wait for follows from the state of the client, here and nowhere else.
std::uint32_t Client::interest() const {
    std::uint32_t events = EPOLLET;
    if (!eof && unsent.size() < high_water) events |= EPOLLIN;
    if (!unsent.empty()) events |= EPOLLOUT;
    return events;
}

// Add to the interest list, or change it. False, with errno, when the kernel has no room for it.
bool Server::watch(int fd, std::uint32_t events, int operation) {
    epoll_event event{.events = events, .data = {.fd = fd}};
    return epoll_ctl(epoll.get(), operation, fd, &event) == 0;
}

// Make the kernel agree. What is ready by now is reported again, edge-triggered or not. False when
// the client has to go.
bool Server::update(Client& client) {
    if (client.interest() == client.watched) return true;
    client.watched = client.interest();
    if (watch(client.fd.get(), client.watched, EPOLL_CTL_MOD)) return true;
    warn("epoll_ctl");
    return false;
}

// Sleep until something can be read or sent without waiting. Return where.
const std::vector<int>& Server::wait_ready() {
    epoll_event events[256];  // if more are ready, the next call returns them
    int count = epoll_wait(epoll.get(), events, std::size(events), -1);
    if (count == -1) warn_and_rest("epoll_wait");

    // Kept, because it must not need memory now: nothing reports an edge a second time.
    static std::vector<int> ready(std::size(events));
    ready.clear();
    for (int i = 0; i < count; ++i) ready.push_back(events[i].data.fd);
    return ready;
}

// Take all clients out of the queue: the next event comes only when it grows again.
void Server::accept_clients() {
    for (;;) {
        Fd fd{accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
        int key = fd.get();  // before the move: an Fd that was moved from has no number
        if (!fd && may_accept_again(errno)) continue;  // a connection that broke in the queue
        if (!fd && errno != EAGAIN) warn("accept");  // clients may wait there, but what can we do?
        if (!fd) return;  // EAGAIN: the queue is empty
        Client client{.fd = std::move(fd)};
        client.watched = client.interest();
        if (watch(key, client.watched)) clients[key] = std::move(client);
        else warn("epoll_ctl");
    }
}

// Send as much as fits. False when the client is gone. We do not keep in mind whether EPOLLOUT has
// come since the last EAGAIN: the price is one send() in vain for a recv(), at most.
bool Server::flush(Client& client) {
    while (!client.unsent.empty()) {
        ssize_t n = send(client.fd.get(), client.unsent.data(), client.unsent.size(), MSG_NOSIGNAL);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1 && errno == EAGAIN) return true;  // its buffers are full: EPOLLOUT will follow
        if (n == -1) return false;
        client.unsent.erase(0, n);
    }
    return true;
}

// Send and receive until neither is possible. False when the client is gone.
bool Server::echo(Client& client) {
    // One for all clients: nothing stays in it. With 4 KiB, a burst could take 16 times the calls.
    static char buffer[64 * 1024];
    for (;;) {
        if (!flush(client)) return false;
        if (client.eof || client.unsent.size() >= high_water) break;

        ssize_t n = recv(client.fd.get(), buffer, sizeof buffer, 0);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1 && errno == EAGAIN) break;  // nothing left: an event will follow
        if (n == -1) return false;
        client.eof = n == 0;  // it has finished sending, but is owed what we hold
        client.unsent.append(buffer, n);
    }
    if (client.eof && client.unsent.empty()) return false;
    return update(client);
}

// close() also takes a descriptor out of the interest list, unless it was dup'ed (epoll(7), Q6).
void Server::remove(int fd) { clients.erase(fd); }

// Let one descriptor have its turn. When memory runs out it costs one client, not the server.
void Server::serve(int fd) try {
    if (fd == listener.get()) accept_clients();
    else if (!echo(clients.at(fd))) remove(fd);
} catch (const std::bad_alloc&) {
    say("no memory: a client is dropped");
    remove(fd);
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, stage.name, stage.port);
    Server server{.listener = listen_on(options, SOCK_NONBLOCK)};
    check(server.watch(server.listener.get(), EPOLLIN | EPOLLET), "epoll_ctl");
    announce(options);

    for (;;)
        for (int fd : server.wait_ready()) server.serve(fd);
}
