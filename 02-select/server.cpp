// 02-select: many clients on one thread. The kernel is asked who is ready.
//
// New here:    select() sleeps until any descriptor of a set can be read.
// Still wrong: a descriptor >= FD_SETSIZE (1024) does not fit into the set and must be refused;
//              the set is copied in and scanned at every call.
//
// Build: g++ -std=c++20 -O2 -I. 02-select/server.cpp -o server

#include "common/net.h"

#include <algorithm>
#include <sys/select.h>
#include <unordered_map>
#include <vector>

constexpr Stage stage{"02-select", 9002};

struct Client {
    Fd fd;
};

struct Server {
    Fd listener;
    fd_set watched{};  // one bit per descriptor
    int highest = -1;  // of those ever watched
    std::unordered_map<int, Client> clients{};  // by descriptor

    bool watch(int fd);
    std::vector<int> wait_ready();
    void accept_clients();
    bool echo(Client& client);
    void remove(int fd);
};

// Add to the set. False, with errno, when it has no bit for this descriptor.
bool Server::watch(int fd) {
    errno = ERANGE;
    if (fd >= FD_SETSIZE) return false;  // FD_SET would write past the end of the set
    FD_SET(fd, &watched);
    highest = std::max(highest, fd);
    return true;
}

// Sleep until something can be read without waiting. Return where.
std::vector<int> Server::wait_ready() {
    fd_set readable = watched;  // a copy, because select() overwrites it with its answer
    if (select(highest + 1, &readable, nullptr, nullptr, nullptr) == -1) {
        warn_and_rest("select");
        return {};
    }

    std::vector<int> ready;
    for (int fd = 0; fd <= highest; ++fd)
        if (FD_ISSET(fd, &readable)) ready.push_back(fd);
    return ready;
}

// Take one client out of the queue. If more are waiting, the listener is still ready.
void Server::accept_clients() {
    Fd fd{accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
    int key = fd.get();  // before the move: an Fd that was moved from has no number
    if (!fd) warn("accept");
    else if (watch(key)) clients[key] = Client{std::move(fd)};
    else say("%s refused: no room for descriptor %d in an fd_set", peer_name(key).c_str(), key);
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
    FD_CLR(fd, &watched);
    clients.erase(fd);
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, stage.name, stage.port);
    Server server{.listener = listen_on(options)};
    check(server.watch(server.listener.get()), "FD_SET");
    announce(options);

    for (;;) {
        for (int fd : server.wait_ready()) {
            if (fd == server.listener.get()) server.accept_clients();
            else if (!server.echo(server.clients.at(fd))) server.remove(fd);
        }
    }
}
