// thread_per_client.cpp: stage 01 with a thread for each client.
//
// No client waits for another, and the code is as plain as before. The design note of chapter 1
// asks what that costs; tests/bench/per_client.py measures it.

#include "common/net.h"

#include <system_error>
#include <thread>

// Serve one client until it is gone. Only this thread sleeps meanwhile.
void serve(Fd client) {
    char buffer[64 * 1024];  // on the stack: each thread needs its own
    for (;;) {
        ssize_t n = recv(client.get(), buffer, sizeof buffer, 0);
        if (n == -1 && errno == EINTR) continue;
        if (n <= 0) return;  // 0: it has finished sending. -1: the connection broke
        if (!send_all(client.get(), {buffer, static_cast<std::size_t>(n)})) return;
    }
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, "thread-per-client", 9100);
    Fd listener = listen_on(options);
    announce(options);

    for (;;) {
        Fd client{accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
        if (!client) {
            if (!may_accept_again(errno)) warn_and_rest("accept");
            continue;
        }
        try {
            std::thread{serve, std::move(client)}.detach();
        } catch (const std::system_error& error) {  // no more threads: pthread_create(3), EAGAIN
            say("a client refused: no thread for it: %s", error.what());
        }
    }
}
