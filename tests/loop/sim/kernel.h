// kernel.h: a kernel in miniature. Descriptors, sockets, one epoll set, a clock, and the network
// behind them, all decided by one seed. The linker puts it under the loop (link.opts, --wrap).

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <sys/epoll.h>
#include <vector>

// The program at the other end of a connection.
struct Peer {
    int id = 0;
    bool orderly =
        true;  // sends everything, half-closes, reads to the end; else all sorts of things
    std::string to_send;  // the whole of it
    std::size_t sent = 0;
    std::string received;
    bool gone = false;  // has reset or closed
    bool fin_sent = false;
    bool saw_fin = false, saw_reset = false;
    bool reads = true;
    int fd = -1;  // the loop's end
    enum { queued, connecting, refusing, silent, up } state = queued;
};

struct File {
    enum Kind { epoll, event, timer, listener, socket, extra } kind;
    // socket:
    Peer* peer = nullptr;
    std::string rx, tx;  // to be received by the loop, to be received by the peer
    bool rx_fin = false, tx_fin = false;
    bool reset = false;  // the peer's reset has come
    int error = 0;  // SO_ERROR
    bool linger_reset = false;
    std::size_t buffer = 0;  // bytes that tx can hold
    int recvs = 0;  // since the last epoll_wait()
    bool excused = false;  // the handler has closed it, or a deadline: unread input is no fault
    // event, extra:
    std::uint64_t count = 0;
    bool hung_up = false;
    // timer: set again only when it has been read, as the real one is
    std::int64_t due = 0, period = 0;  // ms
    // its registration
    std::uint32_t interest = 0;
    epoll_data_t data{};
    long registered = 0;  // number of the last epoll_wait() before it
};

struct Kernel {
    std::mt19937 random;
    std::vector<std::unique_ptr<File>> files;  // by descriptor
    std::vector<std::unique_ptr<Peer>> peers;
    std::vector<Peer*> queue;  // of the listener
    std::int64_t now = 1000;  // ms
    std::int64_t read_at = 1000;  // when the loop last looked at the clock
    std::int64_t first_read_at = 0;  // and first behind the last epoll_wait(); 0: not yet
    long waits = 0;
    long progress = 0;  // whatever has changed: bytes, hooks, descriptors
    int faults = 10;  // of a hundred calls that could fail, so many do
    bool calm = false;  // no more faults, nobody is rude, everybody reads
    bool trace = false;
    std::string failure;  // the first one

    bool chance(int of_a_hundred) { return int(random() % 100) < of_a_hundred; }
    std::size_t upto(std::size_t n) { return n == 0 ? 0 : random() % (n + 1); }
    int open(File::Kind kind);
    File* at(int fd) { return fd >= 0 && fd < int(files.size()) ? files[fd].get() : nullptr; }
    std::uint32_t ready(const File& file) const;
    void network();  // something happens out there, or nothing
    void act(Peer& peer);
    void fail(const std::string& what);
    void say(const char* format, ...) __attribute__((format(printf, 2, 3)));
};

extern Kernel* kernel;
