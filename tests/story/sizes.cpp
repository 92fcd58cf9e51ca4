// What select(), poll() and epoll are handed and hand back, from the kernel's own headers.
#include <cstdio>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>

int main() {
    std::printf("{\"FD_SETSIZE\": %d, \"fd_set\": %zu, \"pollfd\": %zu, \"epoll_event\": %zu}\n",
                FD_SETSIZE, sizeof(fd_set), sizeof(pollfd), sizeof(epoll_event));
}
