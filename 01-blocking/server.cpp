// 01-blocking: an echo server, one client at a time.
//
// New here:    socket, bind, listen, accept, recv, send.
// Still wrong: the second client waits until the first has left.
//
// Build: g++ -std=c++20 -O2 -I. 01-blocking/server.cpp -o server

#include "common/net.h"

struct Client {
    Fd fd;
};

// Receive once and send it back. False when the client is gone.
bool echo(Client& client) {
    static char buffer[64 * 1024];
    ssize_t n = recv(client.fd.get(), buffer, sizeof buffer, 0);  // sleeps until something comes
    if (n == -1 && errno == EINTR) return true;
    if (n <= 0) return false;  // 0: it has finished sending. -1: the connection broke
    return send_all(client.fd.get(), {buffer, static_cast<std::size_t>(n)});
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, "01-blocking", 9001);
    Fd listener = listen_on(options);
    announce(options);

    for (;;) {
        // Sleeps until somebody connects. Who comes later waits in the kernel's queue.
        Client client{Fd{accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)}};
        while (client.fd && echo(client)) {}
        if (client.fd) continue;

        warn("accept");
        // With no descriptor free, accept() fails at once even if nobody waits. Try again later.
        if (out_of_resources(errno)) sleep(1);
    }
}
