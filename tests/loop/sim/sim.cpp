// sim.cpp: the loop, driven through thousands of schedules on a kernel in miniature.
//
//     build/sim                 5,000 schedules
//     build/sim --runs 100000   more
//     build/sim --seed 17       one of them again, with a trace
//
// Each seed decides what clients do and when, how system calls are cut short and fail, and what the
// handler does to its connections, to others and to the loop. What must hold however that turns out
// is checked at every call and after every turn: see the calls of fail().

#include "07-evloop/evloop.h"
#include "kernel.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <stdexcept>
#include <unistd.h>

using namespace std::chrono_literals;

namespace {

// A message is a byte that says how many follow. It is echoed whole.
constexpr std::size_t largest_message = 256;
constexpr auto tick = 100ms;

std::string messages(std::mt19937& random, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) {
        std::size_t size = random() % (random() % 4 == 0 ? 256 : 20);
        all.push_back(static_cast<char>(size));
        for (std::size_t j = 0; j < size; ++j) all.push_back(static_cast<char>(random()));
    }
    return all;
}

// What we know of a connection.
struct Book {
    Peer* peer = nullptr;
    bool outgoing = false, up = true;
    bool mistreated = false;  // aborted, thrown at: its client may be left without an answer
    bool closed = false;  // with close()
    bool held = false;
    long released = -1;  // number of the last epoll_wait() before it
    std::size_t written = 0;
    std::uint64_t id = 0;
};

class Chaos : public Handler {
public:
    Chaos(Kernel& kernel, Limits limits) : k_(kernel), limits_(limits) {}

    Loop* loop = nullptr;
    std::map<Conn*, Book> books;
    std::map<int, long> extras;  // added: descriptor, and the number of the wait before that
    int accepted = 0, begun = 0, closed = 0, ticks = 0;
    bool stopping = false;
    std::int64_t ticked_at = 0;  // when the loop had looked at the clock before the last tick

    bool on_accept(Conn& conn) override {
        called(conn, "on_accept");
        if (books.contains(&conn)) k_.fail("on_accept() for a connection that is already there");
        if (k_.chance(wild() / 2)) return file(conn).excused = true, false;
        books[&conn] = {.peer = file(conn).peer, .id = conn.id()};
        try {
            if (k_.chance(wild())) meddle(&conn);
        } catch (...) {  // rejected: on_close() will not come
            books.erase(&conn);
            throw;
        }
        ++accepted;
        return true;
    }

    void on_connect(Conn& conn) override {
        Book& book = check(conn, "on_connect");
        if (!book.outgoing || book.up) k_.fail("on_connect() twice, or for an accepted one");
        book.up = true;
        if (k_.chance(wild())) meddle(&conn);
    }

    void on_read(Conn& conn) override {
        Book& book = check(conn, "on_read");
        if (!book.up) k_.fail("on_read() before on_connect()");
        if (book.held) k_.fail("on_read() while it is held");
        if (book.closed) k_.fail("on_read() after close()");
        if (conn.input().empty()) k_.fail("on_read() without input");
        if (file(conn).recvs > (stopping ? 2 : 1)) k_.fail("more than one recv() in a turn");
        bool all = k_.chance(70);
        while (whole_message(conn.input())) {
            std::size_t size = 1 + static_cast<unsigned char>(conn.input()[0]);
            if (conn.unsent() > limits_.high_water + 4 * largest_message)
                k_.fail("output grows beyond the high-water mark");
            std::string_view message = conn.input().substr(0, size);
            if (!book.closed) book.written += size;
            conn.write(message);
            if (k_.chance(wild())) meddle(&conn);
            conn.consume(size);
            if (!all) break;
        }
    }

    void on_close(Conn& conn) override {
        Book book = check(conn, "on_close");
        books.erase(&conn);
        ++closed;
        // A reset ends a held connection at once, also if it is released later in the turn.
        bool held = book.held || book.released == k_.waits;
        bool left = conn.error() == ECONNRESET && !held;
        if ((conn.error() != 0 && !left) || !book.up || stopping) file(conn).excused = true;
        bool fine = book.up && !book.mistreated && conn.error() == 0 && !stopping;
        if (fine && conn.unsent() != 0) k_.fail("closed in good order with bytes unsent");
        if (k_.chance(wild())) conn.write("too late");
        if (k_.chance(wild())) conn.close(), conn.hold(), conn.release(), conn.abort();
        if (k_.chance(wild())) meddle(nullptr);
    }

    void on_fd(int fd, std::uint32_t events) override {
        k_.say("on_fd %d", fd);
        ++k_.progress;
        auto found = extras.find(fd);
        if (found == extras.end()) return k_.fail("on_fd() for a descriptor that was removed");
        if (found->second >= k_.waits) k_.fail("on_fd() with an event from before add_fd()");
        std::uint64_t count;
        if (k_.chance(90)) (void)!read(fd, &count, sizeof count);
        bool over = events & EPOLLHUP && !(events & EPOLLIN);
        if (k_.chance(wild())) remove_extra(fd);
        else if (over) extras.erase(fd), k_.at(fd)->count = 0, hung_.push_back(fd);
        if (k_.chance(wild())) meddle(nullptr);
        release_some();
    }

    void on_tick() override {
        k_.say("on_tick");
        ++ticks;
        ticked_at = k_.read_at;
        ++k_.progress;
        release_some();
        if (k_.chance(wild())) meddle(nullptr);
    }

    void begin(const Address& to) {
        Conn* conn = loop->connect(to);
        if (conn == nullptr) return;
        if (books.contains(conn)) k_.fail("connect() has returned one that is there");
        Peer* peer = file(*conn).peer;
        peer->to_send = messages(k_.random, int(k_.upto(5)));
        books[conn] = {.peer = peer, .outgoing = true, .up = false, .id = conn->id()};
        ++begun;
    }

    void add_extra() {
        int fd = k_.open(File::extra);
        if (loop->add_fd(fd, EPOLLIN)) extras[fd] = k_.waits;
        else k_.fail("add_fd() has failed");
    }

    void release_some() {
        for (auto& [conn, book] : books)
            if (book.held && (k_.calm || k_.chance(50))) {
                book.held = false;
                book.released = k_.waits;
                conn->release();
            }
    }

    // Descriptors of ours that are left.
    void clean_up() {
        while (!extras.empty()) remove_extra(extras.begin()->first);
        for (int fd : hung_) close(fd);
        hung_.clear();
    }

private:
    int wild() const { return k_.calm ? 0 : 6; }
    File& file(const Conn& conn) { return *k_.at(conn.fd()); }

    static bool whole_message(std::string_view bytes) {
        return !bytes.empty() && bytes.size() > static_cast<unsigned char>(bytes[0]);
    }

    void called(Conn& conn, const char* hook) {
        ++k_.progress;
        k_.say("%s %d (connection %llu)", hook, conn.fd(),
               static_cast<unsigned long long>(conn.id()));
    }

    Book& check(Conn& conn, const char* hook) {
        called(conn, hook);
        if (!books.contains(&conn)) k_.fail(std::string(hook) + "() for one that is over");
        if (k_.at(conn.fd()) == nullptr)
            k_.fail(std::string(hook) + "(): its descriptor is closed");
        if (books[&conn].id != conn.id()) k_.fail(std::string(hook) + "() for a reused object");
        return books[&conn];
    }

    void remove_extra(int fd) {
        if (k_.chance(20)) {  // the owner is careless
            close(fd);
            loop->remove_fd(fd);
        } else {
            loop->remove_fd(fd);
            close(fd);
        }
        extras.erase(fd);
    }

    // Any callback may do anything to anyone.
    void meddle(Conn* self) {
        Conn* conn = self;
        if (!books.empty() && k_.chance(50))
            conn = std::next(books.begin(), long(k_.upto(books.size() - 1)))->first;
        Book* book = conn != nullptr ? &books[conn] : nullptr;
        switch (k_.random() % 11) {
            case 0:
                if (book == nullptr) break;
                k_.say("close() of %d", conn->fd());
                book->closed = file(*conn).excused = true;
                book->held = false;
                conn->close();
                break;
            case 1:
                if (book == nullptr) break;
                k_.say("abort() of %d", conn->fd());
                book->mistreated = file(*conn).excused = true;
                conn->abort();
                break;
            case 2:
            case 3:
                if (book == nullptr || book->closed) break;
                k_.say("hold() of %d", conn->fd());
                book->held = true;
                conn->hold();
                break;
            case 4:
                release_some();
                break;
            case 5:
                add_extra();
                break;
            case 6:
                if (!extras.empty()) remove_extra(extras.begin()->first);
                break;
            case 7:
                if (!extras.empty()) {
                    int fd = extras.begin()->first;
                    if (loop->add_fd(fd, EPOLLIN)) extras[fd] = k_.waits;
                }
                break;
            case 8:
                begin(Address{});
                break;
            case 9:
                k_.now += k_.upto(350);  // it takes its time
                break;
            case 10:
                if (self != nullptr && books.contains(self)) {
                    books[self].mistreated = file(*self).excused = true;
                    if (!books[self].up) break;
                    throw std::runtime_error("meddling");
                }
        }
    }

    Kernel& k_;
    const Limits limits_;
    std::vector<int> hung_;  // removed by the loop at EPOLLHUP, still open
};

// One schedule. True if everything held.
class Schedule {
public:
    Schedule(unsigned seed, bool trace) {
        k_.random.seed(seed);
        k_.trace = trace;
        kernel = &k_;
        k_.faults = k_.chance(30) ? 0 : int(k_.upto(20));
        limits_ = {.high_water = 500 + k_.upto(2000),
                   .low_water = 100 + k_.upto(300),
                   .max_input = 300 + k_.upto(500),
                   .max_connections = k_.chance(20) ? 3 : 1000u,
                   .tick = tick,
                   .idle = 0ms,
                   .connect = 1000ms,
                   .drain = 1h,
                   .linger = 1h};
        early_stop_ = k_.chance(15) ? int(k_.upto(100)) : -1;
    }

    std::string run() {
        {
            Chaos chaos(k_, limits_);
            Loop loop(chaos, limits_);
            chaos.loop = &loop;
            next_tick_ = k_.now + tick.count();
            if (!loop.listen(Fd{k_.open(File::listener)})) k_.fail("listen() has failed");
            int clients = 1 + int(k_.upto(8));
            for (int turn = 0; turn < 150 && ok(); ++turn) {
                if (clients > 0 && k_.chance(20)) --clients, add_client();
                if (k_.chance(5)) chaos.add_extra();
                if (k_.chance(3)) chaos.begin(Address{});
                if (k_.chance(3)) loop.post([this] { ++k_.progress; });
                if (turn == early_stop_) loop.stop(), chaos.stopping = true;
                if (!one_turn(loop, chaos)) break;
            }
            calm_down(loop, chaos);
            chaos.stopping = true;
            for (auto& file : k_.files)
                if (file) file->excused = true;
            loop.stop();
            for (int turn = 0; ok() && one_turn(loop, chaos); ++turn)
                if (turn > 5000) k_.fail("stop() does not end");
            chaos.clean_up();
            if (ok() && chaos.accepted + chaos.begun != chaos.closed)
                k_.fail("as many on_close() as on_accept() and connect()");
            if (ok() && loop.connections() != 0) k_.fail("connections are left");
        }
        for (std::size_t fd = 0; fd < k_.files.size(); ++fd)
            if (ok() && k_.files[fd]) k_.fail("descriptor " + std::to_string(fd) + " has leaked");
        return k_.failure;
    }

private:
    bool ok() const { return k_.failure.empty(); }

    void add_client() {
        k_.peers.push_back(std::make_unique<Peer>());
        Peer& peer = *k_.peers.back();
        peer.id = int(k_.peers.size());
        peer.orderly = k_.chance(60);
        peer.to_send = messages(k_.random, int(k_.upto(40)));
        k_.queue.push_back(&peer);
        k_.say("peer %d comes, %s, %zu bytes", peer.id, peer.orderly ? "orderly" : "rude",
               peer.to_send.size());
    }

    bool one_turn(Loop& loop, Chaos& chaos) {
        int ticks = chaos.ticks;
        long progress = k_.progress;
        bool more = loop.turn();

        // The loop looks at the clock before the tick, and for other reasons before and after.
        bool ticked = chaos.ticks != ticks;
        if (chaos.ticks > ticks + 1) k_.fail("two ticks in a turn");
        if (ticked && chaos.ticked_at < next_tick_) k_.fail("a tick that was not due");
        if (!ticked && k_.first_read_at >= next_tick_) k_.fail("a tick was due");
        while (ticked && next_tick_ <= chaos.ticked_at) next_tick_ += tick.count();

        idle_turns_ = k_.progress == progress && !ticked ? idle_turns_ + 1 : 0;
        if (idle_turns_ > 200) k_.fail("turns without progress: it spins");

        // What a client has received is the beginning of what it has sent.
        for (auto& peer : k_.peers)
            if (!peer->to_send.starts_with(peer->received))
                k_.fail("peer " + std::to_string(peer->id) + " got what it has not sent");
        return more && ok();
    }

    // Everybody behaves: whoever was treated well must get everything, in a bounded time.
    void calm_down(Loop& loop, Chaos& chaos) {
        k_.calm = true;
        k_.faults = 0;
        k_.say("---- calm");
        if (chaos.stopping) return;
        std::set<Peer*> owed;
        for (auto& [conn, book] : chaos.books)
            if (!book.outgoing && !book.mistreated && !book.closed && !book.peer->gone &&
                k_.at(conn->fd())->error == 0 && conn->error() == 0)
                owed.insert(book.peer);
        std::set<Peer*> waiting(k_.queue.begin(), k_.queue.end());
        owed.merge(waiting);
        auto done = [](const Peer* peer) {
            return peer->received.size() == peer->to_send.size() && peer->saw_fin;
        };
        for (int turn = 0; ok() && !std::all_of(owed.begin(), owed.end(), done); ++turn) {
            one_turn(loop, chaos);
            if (turn == 3000)
                for (Peer* peer : owed)
                    if (!done(peer))
                        k_.fail("peer " + std::to_string(peer->id) + " has sent " +
                                std::to_string(peer->sent) + ", received " +
                                std::to_string(peer->received.size()) + ", of " +
                                std::to_string(peer->to_send.size()) +
                                (peer->saw_reset ? ", then a reset" : ""));
        }
    }

    Kernel k_;
    Limits limits_;
    std::int64_t next_tick_ = 0;
    int early_stop_ = -1;
    int idle_turns_ = 0;
};

unsigned current_seed;

// A crash has a seed too. Only what a signal handler may call.
void say_seed(int signal) {
    char text[] = "\ncrashed with --seed          \n";
    unsigned seed = current_seed;
    for (int at = sizeof text - 3; seed != 0; seed /= 10) text[at--] = char('0' + seed % 10);
    std::fputs(text, stdout);
    std::fflush(stdout);
    std::signal(signal, SIG_DFL);
    std::raise(signal);
}

}  // namespace

int main(int argc, char** argv) {
    constexpr unsigned enough = 10;  // failures: more would say the same
    unsigned first = 1, runs = 5000;
    bool trace = false;
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned value = static_cast<unsigned>(std::strtoul(argv[i + 1], nullptr, 10));
        if (std::strcmp(argv[i], "--runs") == 0) runs = value;
        if (std::strcmp(argv[i], "--first") == 0) first = value;
        if (std::strcmp(argv[i], "--seed") == 0) first = value, runs = 1, trace = true;
    }
    for (int signal : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS}) std::signal(signal, say_seed);
    stderr = std::fopen("/dev/null", "w");  // what handlers throw is said there, thousands of times

    unsigned passed = 0, failed = 0;
    for (unsigned seed = first; seed < first + runs && failed < enough; ++seed) {
        current_seed = seed;
        std::string failure = Schedule(seed, trace).run();
        ++(failure.empty() ? passed : failed);
        if (failure.empty()) continue;
        std::printf("--seed %u: %s\n", seed, failure.c_str());
        std::fflush(stdout);
    }
    std::printf("%u passed, %u failed\n", passed, failed);
    std::fclose(stderr);
    return failed == 0 ? 0 : 1;
}
