#include "kernel.h"

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <utility>

Kernel* kernel;

namespace {

int error(int number) {
    errno = number;
    return -1;
}

}  // namespace

void Kernel::fail(const std::string& what) {
    say("FAILURE: %s", what.c_str());
    if (failure.empty()) failure = what;
}

void Kernel::say(const char* format, ...) {
    if (!trace) return;
    std::printf("%6lld ms, wait %ld: ", static_cast<long long>(now), waits);
    va_list arguments;
    va_start(arguments, format);
    std::vprintf(format, arguments);
    va_end(arguments);
    std::printf("\n");
}

// The lowest free number, at once, as in the real one.
int Kernel::open(File::Kind kind) {
    int fd = 3;
    while (at(fd) != nullptr) ++fd;
    if (fd >= int(files.size())) files.resize(fd + 1);
    files[fd] = std::make_unique<File>();
    files[fd]->kind = kind;
    return fd;
}

std::uint32_t Kernel::ready(const File& file) const {
    std::uint32_t events = 0;
    switch (file.kind) {
        case File::epoll:
            break;
        case File::event:
            events = file.count > 0 ? EPOLLIN + 0u : 0u;
            break;
        case File::timer:
            events = now >= file.due ? EPOLLIN + 0u : 0u;
            break;
        case File::extra:
            events = (file.count > 0 ? EPOLLIN + 0u : 0u) | (file.hung_up ? EPOLLHUP + 0u : 0u);
            break;
        case File::listener:
            events = queue.empty() ? 0u : EPOLLIN + 0u;
            break;
        case File::socket:
            if (file.peer->state == Peer::connecting || file.peer->state == Peer::refusing ||
                file.peer->state == Peer::silent)
                return 0;
            if (!file.rx.empty() || file.rx_fin || file.reset) events |= EPOLLIN;
            if (file.reset || file.tx.size() < file.buffer || file.tx_fin) events |= EPOLLOUT;
            if (file.error != 0) events |= EPOLLERR;
            if (file.reset || (file.rx_fin && file.tx_fin)) events |= EPOLLHUP;
    }
    return events & (file.interest | EPOLLERR | EPOLLHUP);
}

// ---- the network -------------------------------------------------------------------------------

void Kernel::network() {
    for (auto& peer : peers)
        if (calm || chance(30)) act(*peer);
    if (calm) return;
    for (auto& file : files)
        if (file && file->kind == File::extra && chance(10)) {
            if (chance(90)) ++file->count;
            else file->hung_up = true;
        }
}

void Kernel::act(Peer& peer) {
    File* file = at(peer.fd);
    if (file == nullptr || file->peer != &peer) return;
    if (peer.state == Peer::connecting) {
        peer.state = Peer::up;
        ++progress;
        return;
    }
    if (peer.state == Peer::refusing) {
        peer.state = Peer::up;
        file->reset = true;
        file->error = ECONNREFUSED;
        peer.gone = true;
        return;
    }
    if (peer.state != Peer::up || peer.gone) return;

    if (!peer.orderly && !calm && chance(5)) peer.reads = !peer.reads;
    if (!peer.orderly && !calm && chance(3)) {
        say("peer %d resets", peer.id);
        peer.gone = true;
        file->reset = true;
        file->error = ECONNRESET;
        file->tx.clear();
        return;
    }
    if (peer.sent < peer.to_send.size() && !file->reset && !peer.fin_sent) {
        std::size_t n = 1 + upto(std::min<std::size_t>(peer.to_send.size() - peer.sent, 400) - 1);
        file->rx.append(peer.to_send, peer.sent, n);
        peer.sent += n;
        say("peer %d sends %zu", peer.id, n);
    } else if (!peer.fin_sent && (calm || chance(20))) {
        say("peer %d half-closes", peer.id);
        peer.fin_sent = file->rx_fin = true;
    }
    if (peer.reads || calm) {
        std::size_t n = calm ? file->tx.size() : upto(file->tx.size());
        peer.received.append(file->tx, 0, n);
        file->tx.erase(0, n);
        if (n > 0) ++progress;
    }
    // At the end of our stream it leaves.
    if (file->tx_fin && file->tx.empty() && !peer.saw_fin && peer.reads) {
        peer.saw_fin = true;
        if (!peer.fin_sent) peer.fin_sent = file->rx_fin = true;
        say("peer %d sees the end and leaves", peer.id);
    }
}

// ---- system calls ------------------------------------------------------------------------------

extern "C" {

int __wrap_clock_gettime(clockid_t, timespec* time) {
    kernel->read_at = kernel->now;
    if (kernel->first_read_at == 0) kernel->first_read_at = kernel->now;
    time->tv_sec = kernel->now / 1000;
    time->tv_nsec = kernel->now % 1000 * 1'000'000;
    return 0;
}

int __wrap_epoll_create1(int) { return kernel->open(File::epoll); }

int __wrap_eventfd(unsigned count, int) {
    int fd = kernel->open(File::event);
    kernel->at(fd)->count = count;
    return fd;
}

int __wrap_timerfd_create(clockid_t, int) { return kernel->open(File::timer); }

int __wrap_timerfd_settime(int fd, int, const itimerspec* next, itimerspec*) {
    auto ms = [](timespec t) { return t.tv_sec * 1000 + t.tv_nsec / 1'000'000; };
    kernel->at(fd)->due = ms(next->it_value);
    kernel->at(fd)->period = ms(next->it_interval);
    return 0;
}

int __wrap_socket(int, int, int) {
    if (kernel->chance(kernel->faults / 2)) return error(EMFILE);
    return kernel->open(File::socket);
}

int __wrap_epoll_ctl(int, int operation, int fd, epoll_event* event) {
    File* file = kernel->at(fd);
    if (file == nullptr) return error(EBADF);
    bool there = file->registered != 0;
    if (operation == EPOLL_CTL_ADD && there) return error(EEXIST);
    if (operation != EPOLL_CTL_ADD && !there) return error(ENOENT);
    if (operation == EPOLL_CTL_ADD && file->kind == File::socket &&
        kernel->chance(kernel->faults / 5)) {
        file->excused = true;
        kernel->say("epoll_ctl(ADD, %d): ENOSPC", fd);
        return error(ENOSPC);
    }
    if (operation == EPOLL_CTL_DEL) {
        file->registered = 0;
        return 0;
    }
    if (operation == EPOLL_CTL_ADD) file->registered = kernel->waits + 1;
    file->interest = event->events;
    file->data = event->data;
    return 0;
}

int __wrap_epoll_wait(int, epoll_event* events, int most, int timeout) {
    Kernel& k = *kernel;
    ++k.waits;
    for (auto& file : k.files)
        if (file) file->recvs = 0;
    k.first_read_at = 0;
    std::int64_t until = timeout == -1 ? INT64_MAX : k.now + timeout;
    for (;;) {
        k.network();
        int count = 0;
        for (auto& file : k.files) {
            if (!file || file->registered == 0) continue;
            if (std::uint32_t ready = k.ready(*file); ready != 0 && count < most)
                events[count++] = {.events = ready, .data = file->data};
        }
        std::shuffle(events, events + count, k.random);
        if (count > 0) return count;
        if (k.chance(k.faults)) return error(EINTR);
        if (k.now >= until) return 0;
        k.now += std::min<std::int64_t>(until - k.now, 1 + k.upto(30));
    }
}

// Of one, without waiting, and only for what needs no asking: EPOLLHUP and EPOLLERR.
int __wrap_poll(pollfd* one, nfds_t, int) {
    File* file = kernel->at(one->fd);
    one->revents = file == nullptr ? POLLNVAL : file->hung_up ? POLLHUP : 0;
    return one->revents != 0;
}

int __wrap_accept4(int, sockaddr* address, socklen_t* length, int) {
    Kernel& k = *kernel;
    if (k.chance(k.faults)) {
        constexpr int errors[] = {EINTR, ECONNABORTED, EPROTO, ENETDOWN, EMFILE, ENFILE, ENOMEM};
        int number = errors[k.upto(std::size(errors) - 1)];
        k.say("accept: %s", strerrorname_np(number));
        return error(number);
    }
    if (k.queue.empty()) return error(EAGAIN);
    Peer* peer = k.queue.front();
    k.queue.erase(k.queue.begin());
    int fd = k.open(File::socket);
    File& file = *k.at(fd);
    file.peer = peer;
    file.buffer = 1 + k.upto(3000);
    peer->fd = fd;
    peer->state = Peer::up;
    ++k.progress;
    k.say("accept: %d, peer %d", fd, peer->id);
    auto& inet = *reinterpret_cast<sockaddr_in*>(address);
    inet.sin_family = AF_INET;
    inet.sin_port = htons(std::uint16_t(peer->id));
    *length = sizeof inet;
    return fd;
}

int __wrap_connect(int fd, const sockaddr*, socklen_t) {
    Kernel& k = *kernel;
    k.peers.push_back(std::make_unique<Peer>());
    Peer& peer = *k.peers.back();
    peer.id = int(k.peers.size());
    peer.orderly = false;
    peer.fd = fd;
    File& file = *k.at(fd);
    file.peer = &peer;
    file.buffer = 1 + k.upto(3000);
    if (k.chance(k.faults)) return peer.gone = true, error(ENETUNREACH);
    peer.state = k.chance(60) ? Peer::connecting : k.chance(50) ? Peer::refusing : Peer::silent;
    k.say("connect %d: peer %d, fate %d", fd, peer.id, peer.state);
    return error(k.chance(k.faults) ? EINTR : EINPROGRESS);
}

ssize_t __wrap_recv(int fd, void* bytes, std::size_t size, int) {
    Kernel& k = *kernel;
    File* file = k.at(fd);
    if (file == nullptr || file->kind != File::socket) {
        k.fail("recv() on what is no socket");
        return error(EBADF);
    }
    ++file->recvs;
    if (size == 0) k.fail("recv() with no room would look like the end");
    if (k.chance(k.faults / 2)) return error(k.chance(50) ? EINTR : EAGAIN);
    ++k.progress;
    if (!file->rx.empty()) {
        std::size_t n = std::min(size, file->rx.size());
        if (k.chance(30)) n = 1 + k.upto(n - 1);
        std::memcpy(bytes, file->rx.data(), n);
        file->rx.erase(0, n);
        return n;
    }
    if (int number = std::exchange(file->error, 0)) return error(number);
    if (file->rx_fin || file->reset) return 0;
    --k.progress;
    return error(EAGAIN);
}

ssize_t __wrap_send(int fd, const void* bytes, std::size_t size, int) {
    Kernel& k = *kernel;
    File* file = k.at(fd);
    if (file == nullptr || file->kind != File::socket) {
        k.fail("send() on what is no socket");
        return error(EBADF);
    }
    if (k.chance(k.faults / 2)) return error(k.chance(50) ? EINTR : EAGAIN);
    if (int number = std::exchange(file->error, 0)) return error(number);
    if (file->tx_fin) k.fail("send() after shutdown()");
    if (file->reset || file->tx_fin) return error(EPIPE);
    std::size_t n = std::min(size, file->buffer - std::min(file->buffer, file->tx.size()));
    if (n == 0) return error(EAGAIN);
    if (k.chance(30)) n = 1 + k.upto(n - 1);
    file->tx.append(static_cast<const char*>(bytes), n);
    ++k.progress;
    return n;
}

int __wrap_shutdown(int fd, int) {
    kernel->at(fd)->tx_fin = true;
    ++kernel->progress;
    return 0;
}

ssize_t __wrap_read(int fd, void* bytes, std::size_t) {
    File* file = kernel->at(fd);
    if (file == nullptr) return error(EBADF);
    if (file->kind == File::timer) {
        while (file->due <= kernel->now) file->due += file->period;
        return sizeof file->count;
    }
    if (file->count == 0) return error(EAGAIN);
    std::memcpy(bytes, &file->count, sizeof file->count);
    file->count = 0;
    ++kernel->progress;
    return sizeof file->count;
}

ssize_t __wrap_write(int fd, const void* bytes, std::size_t size) {
    std::uint64_t n;
    std::memcpy(&n, bytes, sizeof n);
    if (File* file = kernel->at(fd)) file->count += n;  // else it is a line on stderr
    return size;
}

int __wrap_close(int fd) {
    Kernel& k = *kernel;
    File* file = k.at(fd);
    if (file == nullptr) {
        k.fail("close() of what is not open");
        return error(EBADF);
    }
    k.say("close %d", fd);
    ++k.progress;
    if (file->kind == File::socket && file->peer != nullptr) {
        Peer& peer = *file->peer;
        bool unread = !file->rx.empty();
        if (unread && !file->excused) k.fail("closed before what could be read was read");
        if (peer.reads || k.calm) peer.received += unread || file->linger_reset ? "" : file->tx;
        bool cut = unread || file->linger_reset || file->reset;
        (cut ? peer.saw_reset : peer.saw_fin) = true;
        peer.gone = true;
        peer.fd = -1;
    }
    k.files[fd].reset();
    return 0;
}

int __wrap_getsockopt(int fd, int, int option, void* value, socklen_t*) {
    File& file = *kernel->at(fd);
    bool listens = file.kind == File::listener;
    int number = option == SO_ACCEPTCONN ? listens : std::exchange(file.error, 0);
    std::memcpy(value, &number, sizeof number);
    return 0;
}

// Nobody is connected to itself.
int __wrap_getsockname(int, sockaddr*, socklen_t*) { return 0; }
int __wrap_getpeername(int, sockaddr*, socklen_t*) { return error(ENOTCONN); }

int __wrap_setsockopt(int fd, int, int option, const void*, socklen_t) {
    if (option == SO_LINGER) kernel->at(fd)->linger_reset = true;
    return 0;
}

int __wrap_fcntl(int, int, ...) { return 0; }

int __wrap_ioctl(int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    int* value = va_arg(arguments, int*);
    va_end(arguments);
    File& file = *kernel->at(fd);
    if (file.kind != File::socket) *value = int(file.count);
    else if (request == SIOCINQ) *value = int(file.rx.size());
    else *value = int(file.tx.size());
    return 0;
}
}
