// 03-poll-lt: the same loop without the limit of 1024.
//
// New here:    poll() takes an array, so a descriptor may be any number. Level-triggered: what is
//              left unread is reported again by the next call.
// Still wrong: the cost of a wake-up grows with the number of idle clients, because the kernel and
//              we walk through the whole array each time.
//
// Build: g++ -std=c++20 -O2 -I. 03-poll-lt/server.cpp -o server

#include "common/net.h"

#include <poll.h>
#include <unordered_map>
#include <vector>

constexpr Stage stage{"03-poll-lt", 9003};

struct Client {
    Fd fd;
};

struct Server {
    Fd listener;
    std::vector<pollfd> watched{};  // the listener and the clients
    std::unordered_map<int, Client> clients{};  // by descriptor

    bool watch(int fd);
    std::vector<int> wait_ready();
    void accept_clients();
    bool echo(Client& client);
    void remove(int fd);
};

bool Server::watch(int fd) {
    watched.push_back({.fd = fd, .events = POLLIN, .revents = 0});
    return true;  // there is always room
}

// Sleep until something can be read without waiting. Return where.
std::vector<int> Server::wait_ready() {
    // The question is in `events` and the answer in `revents`: the array can be used again.
    if (poll(watched.data(), watched.size(), -1) == -1) {
        warn_and_rest("poll");
        return {};
    }

    // Not `== POLLIN`: a broken connection is POLLERR or POLLHUP, and recv() tells us more.
    std::vector<int> ready;
    for (const pollfd& w : watched)
        if (w.revents != 0) ready.push_back(w.fd);
    return ready;
}

// Take one client out of the queue. If more are waiting, the listener is still ready.
void Server::accept_clients() {
    Fd fd{accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
    int key = fd.get();  // before the move: an Fd that was moved from has no number
    if (!fd) warn("accept");
    else if (watch(key)) clients[key] = Client{std::move(fd)};
}

// Receive once and send it back. False when the client is gone.
bool Server::echo(Client& client) {
    // One for all clients: nothing stays in it. With 4 KiB, a burst could take 16 times the calls.
    static char buffer[64 * 1024];
    ssize_t n = recv(client.fd.get(), buffer, sizeof buffer, 0);
    if (n == -1 && errno == EINTR) return true;
    if (n <= 0) return false;  // 0: it has finished sending. -1: the connection broke
    return send_all(client.fd.get(), {buffer, static_cast<std::size_t>(n)});
}

void Server::remove(int fd) {
    std::erase_if(watched, [fd](const pollfd& w) { return w.fd == fd; });
    clients.erase(fd);
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, stage.name, stage.port);
    Server server{.listener = listen_on(options)};
    server.watch(server.listener.get());
    announce(options);

    for (;;) {
        for (int fd : server.wait_ready()) {
            if (fd == server.listener.get()) server.accept_clients();
            else if (!server.echo(server.clients.at(fd))) server.remove(fd);
        }
    }
}
