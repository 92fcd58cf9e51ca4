// 05-epoll-et: one notification for each change, instead of one for each wait.
//
// New here:    EPOLLET. What is left unread is not reported again, so sockets are non-blocking,
//              and accept() and recv() are called until EAGAIN.
// Still wrong: a client that reads too slowly is dropped; a fast sender holds the loop;
//              when no descriptor is free, queued clients hang until another one connects.
//
// Build: g++ -std=c++20 -O2 -I. 05-epoll-et/server.cpp -o server

#include "common/net.h"

#include <sys/epoll.h>
#include <unordered_map>
#include <vector>

constexpr Stage stage{"05-epoll-et", 9005};

struct Client {
    Fd fd;
};

struct Server {
    Fd listener;
    Fd epoll{check(epoll_create1(EPOLL_CLOEXEC), "epoll_create1")};
    std::unordered_map<int, Client> clients{};  // by descriptor

    bool watch(int fd);
    std::vector<int> wait_ready();
    void accept_clients();
    bool send_all(Client& client, std::string_view bytes);
    bool echo(Client& client);
    void remove(int fd);
};

// Add to the interest list. False, with errno, when the kernel has no room for it.
bool Server::watch(int fd) {
    epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.fd = fd}};
    return epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

// Sleep until something can be read without waiting. Return where.
std::vector<int> Server::wait_ready() {
    epoll_event events[256];  // if more are ready, the next call returns them
    int count = epoll_wait(epoll.get(), events, std::size(events), -1);
    if (count == -1) warn_and_rest("epoll_wait");

    std::vector<int> ready;  // stays empty when the wait has failed
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
        if (watch(key)) clients[key] = Client{std::move(fd)};
        else warn("epoll_ctl");
    }
}

// Send all of `bytes` at once, or give the client up. False when it is gone.
bool Server::send_all(Client& client, std::string_view bytes) {
    while (!bytes.empty()) {
        ssize_t n = send(client.fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1 && errno == EAGAIN) {  // it does not read, and its buffers are full
            say("%s reads too slowly: dropped, %zu bytes unsent",
                peer_name(client.fd.get()).c_str(), bytes.size());
            return false;
        }
        if (n == -1) return false;
        bytes.remove_prefix(n);
    }
    return true;
}

// Receive all there is and send it back. False when the client is gone.
bool Server::echo(Client& client) {
    // One for all clients: nothing stays in it. With 4 KiB, a burst could take 16 times the calls.
    static char buffer[64 * 1024];
    for (;;) {
        ssize_t n = recv(client.fd.get(), buffer, sizeof buffer, 0);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1 && errno == EAGAIN) return true;  // nothing left: an event will follow
        if (n <= 0) return false;  // 0: it has finished sending. -1: the connection broke
        if (!send_all(client, {buffer, static_cast<std::size_t>(n)})) return false;
    }
}

// close() also takes a descriptor out of the interest list, unless it was dup'ed (epoll(7), Q6).
void Server::remove(int fd) { clients.erase(fd); }

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, stage.name, stage.port);
    Server server{.listener = listen_on(options, SOCK_NONBLOCK)};
    check(server.watch(server.listener.get()), "epoll_ctl");
    announce(options);

    for (;;) {
        for (int fd : server.wait_ready()) {
            if (fd == server.listener.get()) server.accept_clients();
            else if (!server.echo(server.clients.at(fd))) server.remove(fd);
        }
    }
}
