// server_fuzz.cpp: the server of stage 07, fed by a few clients on one thread.
//
// The input is a script: who connects, what he sends and in which parts, when the loop turns, who
// reads, stalls, half-closes, leaves. The server and its loop are the real ones, on real sockets:
//
//     AF_UNIX   instead of TCP: what is sent is there at once, so that a script replays exactly
//     Worker    has no thread: jobs are finished when the script says so
//     clock     stands still until the script moves it
//     say()     is written down, and every line of it
//
// Whatever the script: a client gets back its whole frames, all of them and nothing else; it is
// closed if it sends something malformed or has finished sending, and not otherwise.

#include "script.h"

#include <cstdarg>

#define Worker RealWorker  // the thread; what follows stands in for it
#include "07-evloop/worker.h"
#undef Worker

class Worker {
public:
    Worker() { current = this; }

    int fd() const { return event_.get(); }
    bool submit(Job job) {
        waiting_.push_back(std::move(job));
        return true;
    }

    void cancel(std::uint64_t client) {
        std::erase_if(waiting_, [client](const Job& job) { return job.client == client; });
    }

    bool finish() {
        if (waiting_.empty()) return false;
        done_ = std::exchange(waiting_, {});
        eventfd_write(event_.get(), 1);
        return true;
    }

    std::vector<Job> finished() {
        eventfd_t count;
        eventfd_read(event_.get(), &count);
        return std::exchange(done_, {});
    }

    static Worker* current;

private:
    Fd event_{check(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")};
    std::vector<Job> waiting_, done_;
};

Worker* Worker::current = nullptr;

// What the server has said.
static std::string said;

[[gnu::format(printf, 1, 2)]] static void write_down(const char* format, ...) {
    char line[200];
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(line, sizeof line, format, values);
    va_end(values);
    said.append(line).append("\n");
}

#pragma GCC diagnostic ignored "-Wreturn-type"  // main() may end without one, under this name only
#define main server_main
#include "common/net.h"  // with the real say()
#define say write_down
#include "07-evloop/server.cpp"
#undef main
#undef say

#include <array>
#include <optional>
#include <poll.h>
#include <set>
#include <sys/un.h>

extern "C" std::size_t __sanitizer_get_current_allocated_bytes();

// ---- The clock ---------------------------------------------------------------------------------

static bool scripted = false;  // libFuzzer has a use for the real clock
static std::int64_t now_ms = 0;

extern "C" int __real_clock_gettime(clockid_t, timespec*);
extern "C" int __wrap_clock_gettime(clockid_t clock, timespec* time) {
    if (!scripted) return __real_clock_gettime(clock, time);
    time->tv_sec = now_ms / 1000;
    time->tv_nsec = now_ms % 1000 * 1'000'000;
    return 0;
}

namespace {

constexpr std::size_t longest = 1'200'000;  // bytes that a client sends, before its last piece
constexpr std::size_t slots = 4;  // clients at a time
constexpr int most_clients = 12;  // in all
constexpr int idle_turns = 6;  // nothing can come when nothing has moved for so many

const Limits limits{.high_water = 16 << 10, .low_water = 4 << 10, .drain = std::chrono::hours(1)};

// Descriptors below 64 that are open, a bit for each.
std::uint64_t open_descriptors() {
    std::array<pollfd, 64> fds;
    for (int i = 0; i < 64; ++i) fds[i] = {.fd = i, .events = 0, .revents = 0};
    poll(fds.data(), fds.size(), 0);
    std::uint64_t open = 0;
    for (int i = 0; i < 64; ++i) open |= std::uint64_t{!(fds[i].revents & POLLNVAL)} << i;
    return open;
}

// A listener whose address the kernel has chosen, and that address.
struct Place {
    Place() {
        address.sun_family = AF_UNIX;
        length = sizeof(sa_family_t);
        check(bind(fd.get(), data(), length), "bind");
        length = sizeof address;
        check(getsockname(fd.get(), data(), &length), "getsockname");
        check(listen(fd.get(), SOMAXCONN), "listen");
    }
    sockaddr* data() { return reinterpret_cast<sockaddr*>(&address); }

    Fd fd{check(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket")};
    sockaddr_un address{};
    socklen_t length;
};

int count_said(std::string_view what) {
    int found = 0;
    for (std::size_t at = 0; (at = said.find(what, at)) != said.npos; ++at) ++found;
    return found;
}

// The server of the stage, with somebody who looks over its shoulder.
class Watched : public EchoServer {
public:
    Watched(Fd listener, int send_buffer)
        : EchoServer(limits, std::move(listener)), send_buffer_(send_buffer) {}

    bool on_accept(Conn& conn) override {
        require(open_.insert(&conn).second, "on_accept() for one that is there already");
        setsockopt(conn.fd(), SOL_SOCKET, SO_SNDBUF, &send_buffer_, sizeof send_buffer_);
        ++calls;
        ++accepted;
        return EchoServer::on_accept(conn);
    }

    void on_read(Conn& conn) override {
        require(open_.contains(&conn), "on_read() for one that is over");
        std::size_t before = conn.input().size();
        require(before > 0, "on_read() without input");
        require(before <= limits.max_input, "input grows beyond its limit");
        ++calls;
        EchoServer::on_read(conn);
        require(conn.unsent() < limits.high_water + limits.max_input,
                "output grows beyond the high-water mark and what came at once");
    }

    void on_close(Conn& conn) override {
        require(open_.erase(&conn) == 1, "on_close() twice, or for one that was never there");
        require(conn.error() != ECANCELED, "nothing is thrown");
        ++calls;
        ++closed;
        EchoServer::on_close(conn);
    }

    void on_fd(int fd, std::uint32_t events) override {
        ++calls;
        EchoServer::on_fd(fd, events);
    }

    long calls = 0;
    int accepted = 0, closed = 0;

private:
    int send_buffer_;
    std::set<const Conn*> open_;
};

// A client that never blocks, and what it is owed.
class Client {
public:
    explicit Client(Place& place) {
        check(connect(fd_.get(), place.data(), place.length), "connect");
    }

    void say(std::string_view bytes) {
        if (finished_ || sent_.size() >= longest) return;
        sent_ += bytes;
        reference_.feed(bytes);
        flush();
    }

    void half_close() {
        finished_ = true;
        flush();
    }

    // Send what fits. True if something moved.
    bool flush() {
        std::size_t before = flushed_;
        while (flushed_ < sent_.size() && !refused_) {
            ssize_t n = send(fd_.get(), sent_.data() + flushed_, sent_.size() - flushed_,
                             MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n == -1 && errno == EAGAIN) break;
            if (n == -1) {
                require(malformed(), "closed although all that was sent is well-formed");
                refused_ = true;
            } else {
                flushed_ += n;
            }
        }
        bool whole = refused_ || flushed_ == sent_.size();
        if (finished_ && whole && !std::exchange(shut_, true)) {
            shutdown(fd_.get(), SHUT_WR);
            return true;
        }
        return flushed_ != before;
    }

    // Receive and compare. True if something moved.
    bool receive(std::size_t most) {
        static std::array<char, 128 << 10> buffer;
        bool moved = false;
        while (most > 0 && !ended_) {
            std::size_t room = std::min(most, buffer.size());
            ssize_t n = recv(fd_.get(), buffer.data(), room, MSG_DONTWAIT);
            if (n == -1 && errno == EAGAIN) break;
            require(n != -1, "a reset instead of the answer");
            moved = true;
            ended_ = n == 0;
            require(received_ + n <= reference_.whole(), "more came back than whole frames");
            require(std::equal(buffer.data(), buffer.data() + n, sent_.data() + received_),
                    "something else came back than was sent");
            received_ += n;
            most -= n;
        }
        return moved;
    }

    // When all has come to rest.
    void check_end() const {
        require(received_ == reference_.whole(), "every whole frame comes back");
        if (malformed()) require(ended_, "closed after something malformed");
        else require(ended_ == finished_, "closed when it has finished sending, and not before");
    }

    bool malformed() const { return reference_.verdict() != Reference::fine; }
    const Reference& reference() const { return reference_; }
    bool ended() const { return ended_; }
    std::size_t sent() const { return sent_.size(); }

private:
    Fd fd_{check(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket")};
    std::string sent_;
    Reference reference_;
    std::size_t flushed_ = 0, received_ = 0;
    bool finished_ = false, shut_ = false;  // half_close(), and once the kernel has all
    bool refused_ = false;  // the server does not take more
    bool ended_ = false;  // its end has come
};

class Run {
public:
    explicit Run(Script script)
        : script_(script), server_(std::move(place_.fd), 1 << (11 + script_.number(1) % 8)) {}

    void play() {
        while (!script_.over()) step();
        come_to_rest();
        std::size_t open = 0;
        for (auto& client : clients_) {
            if (!client) continue;
            client->check_end();
            if (client->ended()) leave(client);
            else ++open;
        }
        come_to_rest();
        require(server_.loop().connections() == open, "who is well-behaved stays, and nobody else");
        check_said();
        end();
    }

private:
    void step() {
        std::uint32_t choice = script_.number(1);
        std::optional<Client>& client = clients_[choice / 64 % slots];
        int what = static_cast<int>(choice % 64 % 16);
        if (what == 0) return void(turn());
        if (what == 1) return void(Worker::current->finish());
        if (what == 2) return void(now_ms += script_.number(1) * 8);
        if (!client) {
            if (met_ == most_clients) return;
            ++met_;
            client.emplace(place_);
        }
        if (what == 3) client->half_close();
        else if (what == 4) leave(client);
        else if (what <= 6) client->receive(script_.number(2));
        else client->say(next_piece(script_, (what - 7) % piece_kinds));
        if (choice % 64 >= 32) turn();
    }

    void leave(std::optional<Client>& client) {
        bytes_of_the_gone_ += client->sent();
        note(client->reference());
        vanished_ += !client->ended();
        client.reset();
    }

    void note(const Reference& reference) {
        wrong_magic_ += reference.verdict() == Reference::wrong_magic;
        too_long_ += reference.verdict() == Reference::too_long;
    }

    // One turn that does not sleep: a task is always waiting.
    bool turn() {
        server_.loop().post([] {});
        std::size_t before = __sanitizer_get_current_allocated_bytes();
        bool more = server_.loop().turn();
        held_ += __sanitizer_get_current_allocated_bytes() - before;  // modulo 2^64, as before
        std::size_t sent = bytes_of_the_gone_;
        for (auto& client : clients_)
            if (client) sent += client->sent();
        require(static_cast<std::ptrdiff_t>(held_) <=
                    static_cast<std::ptrdiff_t>((64 << 10) + (512 << 10) * met_ + 4 * sent),
                "memory grows beyond what was sent");
        return more;
    }

    // Everybody reads and sends, jobs are finished, until nothing moves any more.
    void come_to_rest() {
        for (int idle = 0; idle < idle_turns; ++idle) {
            long calls = server_.calls;
            bool moved = Worker::current->finish();
            for (auto& client : clients_) {
                if (!client) continue;
                if (client->flush()) moved = true;
                if (client->receive(SIZE_MAX)) moved = true;
            }
            turn();
            if (moved || server_.calls - calls > 0) idle = -1;
        }
    }

    // Of each client that the server refuses it says so once; of one that has left, at most once.
    void check_said() {
        for (auto& client : clients_)
            if (client) note(client->reference());
        int magic = count_said("not a frame"), length = count_said("frame too long");
        require(magic <= wrong_magic_ && length <= too_long_, "refused, but well-formed");
        require(magic + length + vanished_ >= wrong_magic_ + too_long_, "refused without a word");
    }

    // Stop with whoever is left.
    void end() {
        server_.loop().stop();
        for (int turns = 0; turn(); ++turns) {
            require(turns < 100, "stop() does not end");
            now_ms += 100;  // half a frame has a grace
            for (auto& client : clients_) {
                if (!client) continue;
                client->receive(SIZE_MAX);
                if (client->ended()) client.reset();
            }
        }
        for (auto& client : clients_)
            if (client) client->receive(SIZE_MAX);
        for (auto& client : clients_) require(!client || client->ended(), "stopped without an end");
        require(server_.accepted == met_, "everybody was accepted");
        require(server_.closed == met_, "as many on_close() as on_accept()");
    }

    Script script_;
    Place place_;
    Watched server_;
    std::array<std::optional<Client>, slots> clients_;
    int met_ = 0, vanished_ = 0;
    int wrong_magic_ = 0, too_long_ = 0;  // that a server may have seen
    std::size_t bytes_of_the_gone_ = 0;
    std::size_t held_ = 0;  // bytes that the loop has allocated and not freed
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    pattern(0);  // made once, and not in the middle of a run
    std::uint64_t before = open_descriptors();
    scripted = true;
    now_ms = 1'000'000;
    said.clear();
    Run(Script(data, size)).play();
    scripted = false;
    require(open_descriptors() == before, "a descriptor has leaked");
    return 0;
}
