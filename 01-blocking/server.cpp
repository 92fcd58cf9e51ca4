// 01-blocking: an echo server, one client at a time.
//
// New here:    socket, bind, listen, accept, recv, send.
// Still wrong: the second client waits until the first has left.
//
// Build: g++ -std=c++20 -O2 -I. 01-blocking/server.cpp -o server

#include "common/net.h"

constexpr Stage stage{"01-blocking", 9001};

struct Client {
    Fd fd;
};

// Receive once and send it back. False when the client is gone.
bool echo(Client& client) {
    // One for all clients: nothing stays in it. With 4 KiB, a burst could take 16 times the calls.
    static char buffer[64 * 1024];
    ssize_t n = recv(client.fd.get(), buffer, sizeof buffer, 0);  // sleeps until something comes
    if (n == -1 && errno == EINTR) return true;
    if (n <= 0) return false;  // 0: it has finished sending. -1: the connection broke
    return send_all(client.fd.get(), {buffer, static_cast<std::size_t>(n)});
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, stage.name, stage.port);
    Fd listener = listen_on(options);
    announce(options);

    for (;;) {
        // Sleeps until a client connects. Later clients wait in the kernel's queue.
        Client client{Fd{accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)}};
        while (client.fd && echo(client)) {}

        // With no descriptor free, accept() fails at once even if no client waits.
        if (!client.fd && !may_accept_again(errno)) warn_and_rest("accept");
    }
}
