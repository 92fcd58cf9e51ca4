// 04-epoll-lt: the interest list lives in the kernel, and only what is ready comes back.
//
// New here:    epoll_ctl() once per client, instead of the whole array at each wait.
// Still wrong: one client that does not read freezes everyone in send();
//              when no descriptor is free, the listener stays ready and the loop spins.
//
// Build: g++ -std=c++20 -O2 -I. 04-epoll-lt/server.cpp -o server

#include "common/net.h"

#include <sys/epoll.h>
#include <unordered_map>
#include <vector>

constexpr Stage stage{"04-epoll-lt", 9004};

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
    bool echo(Client& client);
    void remove(int fd);
};

// Add to the interest list. False, with errno, when the kernel has no room for it.
bool Server::watch(int fd) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
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

// Take one client out of the queue. If more are waiting, the listener is still ready.
void Server::accept_clients() {
    Fd fd{accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
    int key = fd.get();  // before the move: an Fd that was moved from has no number
    if (!fd) warn("accept");
    else if (watch(key)) clients[key] = Client{std::move(fd)};
    else warn("epoll_ctl");
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

// close() also takes a descriptor out of the interest list, unless it was dup'ed (epoll(7), Q6).
void Server::remove(int fd) { clients.erase(fd); }

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, stage.name, stage.port);
    Server server{.listener = listen_on(options)};
    check(server.watch(server.listener.get()), "epoll_ctl");
    announce(options);

    for (;;) {
        for (int fd : server.wait_ready()) {
            if (fd == server.listener.get()) server.accept_clients();
            else if (!server.echo(server.clients.at(fd))) server.remove(fd);
        }
    }
}
