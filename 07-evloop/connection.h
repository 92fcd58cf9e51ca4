// connection.h: how a Conn is done. For evloop.cpp alone; a handler sees what evloop.h says.
//
// A connection is always in one phase, and goes to the next along one of these edges:
//
//     connecting ──▶ open ──▶ closing ──▶ lingering
//       │  │          │        ▲   │          │
//       │  └──────────│────────┘   │          │
//       └─────────────┴────────────┴──────────┴──▶ over ──▶ gone
//
// No hook is called here. What a handler asks for is stored, and the connection touched: at the end
// of the turn the loop lets it advance(), and tells the kernel what follows.

#pragma once

#include "buffer.h"
#include "common/address.h"
#include "common/fd.h"
#include "evloop.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <ctime>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <thread>
#include <vector>

using Time = std::chrono::milliseconds;  // on CLOCK_MONOTONIC

inline Time clock_now() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return Time(now.tv_sec * 1000 + now.tv_nsec / 1'000'000);
}

// What a descriptor is called in the events of epoll, and a connection by its handler: the number,
// which is used again, and the serial of this use of it.
inline std::uint64_t name_of(std::uint32_t serial, int fd) {
    return std::uint64_t{serial} << 32 | static_cast<std::uint32_t>(fd);
}

// Bytes that have come and are not read yet; -1 if the kernel does not say.
inline int unread(int fd) {
    int bytes = 0;
    return ioctl(fd, FIONREAD, &bytes) == 0 ? bytes : -1;
}

// Bytes that are sent and not acknowledged yet; -1 if the kernel does not say.
inline int unacknowledged(int fd) {
    int bytes = 0;
    return ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : -1;
}

enum class Phase : std::uint8_t {
    connecting,  // begun by Loop::connect(), and not up yet
    open,
    closing,  // takes no input any more; all output is still sent
    lingering,  // our FIN is on its way; we wait for that of the peer
    over,  // the next settle destroys it
    gone,  // in its on_close() or behind it
};

struct Edge {
    Phase from, to;
    bool operator==(const Edge&) const = default;
};

constexpr Edge edges[] = {
    {Phase::connecting, Phase::open},  // it is up
    {Phase::connecting, Phase::closing},  // the same, behind a close()
    {Phase::connecting, Phase::over},  // an error, abort(), a deadline, like the others to `over`;
                                       // or close() with nothing to send
    {Phase::open, Phase::closing},  // close(), or no more input
    {Phase::open, Phase::over},
    {Phase::closing, Phase::lingering},  // all is sent
    {Phase::closing, Phase::over},  // or: all is sent, and the peer has finished too
    {Phase::lingering, Phase::over},  // or: the peer has finished
    {Phase::over, Phase::gone},  // on_close(); or on_accept() did not want it
};

inline void (*on_edge)(Edge) = nullptr;  // for the test that walks the diagram

class Connection;

constexpr std::size_t chunk_size = 128 << 10;  // bytes of a buffer to receive into

// Empty buffers that are used again, as they are still in the cache, and as memory that was given
// back to the system and is asked for again has to be mapped again.
class Spares {
public:
    explicit Spares(std::size_t most) { buffers_.reserve(most); }

    Buffer take() {
        Buffer buffer;
        if (buffers_.empty()) return buffer;
        buffer.swap(buffers_.back());
        buffers_.pop_back();
        return buffer;
    }

    void give(Buffer& buffer) {
        Buffer spare = std::exchange(buffer, {});
        if (spare.capacity() == 0 || spare.capacity() > 2 * chunk_size) return;
        if (buffers_.size() == buffers_.capacity()) return;
        spare.clear();
        buffers_.push_back(std::move(spare));
    }

private:
    std::vector<Buffer> buffers_;
};

// What the connections of a loop have in common.
struct Shared {
    Shared(Loop& its_loop, const Limits& its_limits) : loop(its_loop), limits(its_limits) {}

    Loop& loop;
    const Limits limits;
    Connection* touched = nullptr;  // a list of those that the next settle looks at
    Spares inputs{16}, outputs{1};
    std::size_t held = 0;  // bytes of memory in the buffers of all connections
    Time now = clock_now();  // read once for a turn and not for each message
    bool draining = false;  // stop() has closed the listeners
    std::thread::id owner{};  // the thread that is in turn()
};

class Connection final : public Conn {
public:
    Connection(Shared& shared, Fd fd, const Address& peer, Phase phase)
        : shared_(shared), peer_(peer), fd_(std::move(fd)), phase_(phase) {}
    ~Connection() override { shared_.held -= held_bytes(); }

    // ---- What handlers ask for -----------------------------------------------------------------

    std::string_view input() const override {
        return takes_input() || phase_ == Phase::gone ? in_.view() : std::string_view{};
    }

    void consume(std::size_t n) override {
        touch();
        n = std::min(n, in_.size());  // after close() there is nothing
        if (n == 0) return;
        in_.consume(n);
        progress();
        more_ = !in_.empty();
        fresh_ = false;
        throttle();
    }

    void write(std::string_view bytes) override {
        touch();
        if (phase_ > Phase::open || closed_) return;
        Counted counted(*this);
        // Small writes are put together: one send() for all answers of a hook. Of a large one, what
        // the kernel takes at once need not be copied.
        constexpr std::size_t large = 16 << 10;  // bytes: a copy would cost more than a send()
        if (bytes.size() >= large && out_.empty() && can_send())
            bytes.remove_prefix(send_some(bytes));
        if (bytes.empty() || error_ != 0) return;
        if (out_.capacity() == 0) out_ = shared_.outputs.take();
        try {
            out_.append(bytes);
        } catch (const std::bad_alloc&) {
            fail(ENOMEM);  // the kernel may have the first part
        }
    }

    std::size_t unsent() const override { return out_.size(); }

    void hold() override {
        touch();
        held_ = true;
    }

    void release() override {
        touch();
        bool held = is_held();
        held_ = false;
        if (!held) return;
        more_ = !in_.empty();
        progress();
    }

    void close() override {
        touch();
        if (phase_ > Phase::open) return;
        closed_ = true;
        more_ = false;
        in_.clear();
        if (phase_ == Phase::open) enter(Phase::closing);
        else if (out_.empty()) fail(0);  // not up, and nothing has to wait until it is
    }

    void abort() override { fail(ECONNABORTED); }

    void deadline(Time from_now) override {
        Time now = clock_now();
        bool never = from_now == Time{0} || from_now > Time::max() - now;  // it cannot be counted
        deadline_ = never ? Time::max() : now + from_now;
    }

    int error() const override { return error_; }
    int fd() const override { return fd_.get(); }
    std::uint64_t id() const override { return name_of(serial, fd()); }
    std::string peer() const override { return to_string(peer_); }
    Loop& loop() const override { return shared_.loop; }

    // ---- What the kernel reports ---------------------------------------------------------------

    // connect() has come to something: it is up, unless there is an error. (With data before it, it
    // was up.)
    void finish_connect() {
        int error = pending_error();
        if (error != 0 && unread(fd()) <= 0) return fail(error);
        // The port that we connect from may be the free one that we connect to: then two SYNs
        // cross, and we would talk to ourselves.
        if (is_own_peer()) return fail(ECONNREFUSED);
        enter(closed_ ? Phase::closing : Phase::open);
        if (error != 0) lost(error);
    }

    // One recv(). True if there is something to offer.
    bool receive() {
        Counted counted(*this);
        if (in_.capacity() < chunk_size) take_chunk();
        constexpr std::size_t most = 64 << 10;  // bytes: less costs throughput
        bool taken = phase_ == Phase::open;
        std::size_t room = taken ? std::min({most, max_input() - in_.size(), quota_}) : most;
        ssize_t n = recv(fd(), in_.reserve(room), room, 0);
        if (n > 0 && taken) {
            in_.commit(n);
            if (quota_ != no_quota) quota_ -= n;
            more_ = true;
        }
        // Of a message that is not whole only this much is progress: its sender is not idle. What
        // is thrown away is too, once all is sent, and as long as Limits::linger.
        if (taken ? n == ssize_t(most) : n > 0 && phase_ == Phase::lingering) progress();
        if (n == 0) eof_ = true;
        if (n == -1 && errno != EAGAIN && errno != EINTR) lost(errno);
        return n > 0 && taken;
    }

    void unblock() { blocked_ = false; }

    // The client of a held connection has left: nobody waits for the answer that is being made.
    void hang_up() {
        int error = pending_error();
        fail(error != 0 ? error : ECONNRESET);
    }

    // ---- What the loop decides -----------------------------------------------------------------

    // Send what waits. An idle connection holds no buffers, and one that waits for the rest of a
    // message no chunk.
    void flush() {
        if (held_bytes() == 0) return;
        Counted counted(*this);
        if (!out_.empty() && can_send()) out_.consume(send_some(out_.view()));
        if (out_.empty()) shared_.outputs.give(out_);
        if (in_.empty()) shared_.inputs.give(in_);
        else if (in_.size() <= chunk_size / 8 && in_.capacity() >= chunk_size) shrink();
    }

    void throttle() {
        if (out_.size() >= shared_.limits.high_water) paused_ = true;
    }

    // At the end of a turn: what follows from all that has happened in it?
    void advance() {
        if (phase_ >= Phase::open && phase_ < Phase::over) go_on();
        if (last_progress_ == this_turn) last_progress_ = shared_.now;
    }

    void go_on() {
        flush();
        throttle();
        const Limits& limits = shared_.limits;
        if (out_.size() <= limits.low_water && out_.size() < limits.high_water) paused_ = false;
        if (takes_input() && !more_ && input_is_over()) enter(Phase::closing);
        if (phase_ != Phase::open && out_.empty()) finish();
    }

    // stop(): what has come by now is still taken, and the rest of a message.
    void begin_drain() {
        touch();
        if (phase_ == Phase::connecting) return fail(ECANCELED);
        std::size_t come = std::max(0, unread(fd()));
        quota_ = come + std::min(max_input(), no_quota - come);
    }

    void fail(int error) {
        if (phase_ >= Phase::over) return;
        if (error_ == 0) error_ = error;
        enter(Phase::over);
    }

    // Once a tick. The kernel asks for more when a third of its buffer is free, which may be over a
    // megabyte. A slow peer needs longer for that than a deadline lasts, so what it has
    // acknowledged by now is progress, too.
    void count_acknowledged() {
        if (!blocked_) return;
        int before = std::exchange(in_flight_, unacknowledged(fd()));
        if (in_flight_ < before) last_progress_ = shared_.now;
    }

    void time_out() { fail(phase_ == Phase::lingering ? 0 : ETIMEDOUT); }

    // on_accept() does not want it: on_close() is not for it.
    void reject() {
        fail(0);
        enter(Phase::gone);
    }

    void enter(Phase next) {
        assert(std::ranges::find(edges, Edge{phase_, next}) != std::end(edges));
        if (on_edge != nullptr) on_edge({phase_, next});
        phase_ = next;
        progress();
        touch();
    }

    // A reset, if the peer could take what it has got for the whole.
    void cut_off() const {
        if (out_.empty() && (error_ == 0 || error_ == ETIMEDOUT)) return;
        linger reset{.l_onoff = 1, .l_linger = 0};
        setsockopt(fd(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    }

    // The next settle looks at it. Whoever changes something comes by here.
    void touch() {
        assert(
            (shared_.owner == std::thread::id{} || shared_.owner == std::this_thread::get_id()) &&
            "a connection belongs to the thread of its loop: see Loop::post()");
        if (std::exchange(touched_, true)) return;
        next_touched = shared_.touched;
        shared_.touched = this;
    }
    void untouch() { touched_ = false; }
    void begin_offer() { more_ = false; }  // unless the handler takes something

    // ---- What follows from its state -----------------------------------------------------------

    Phase phase() const { return phase_; }
    bool is_held() const { return held_ && phase_ == Phase::open; }
    bool takes_input() const { return phase_ == Phase::open && !held_ && !paused_; }
    bool offers_again() const { return more_ && takes_input(); }
    bool is_too_long() const { return takes_input() && in_.size() >= max_input(); }
    std::size_t held_bytes() const { return in_.capacity() + out_.capacity(); }

    // What we wait for in epoll. EPOLLERR and EPOLLHUP come anyway, and tell of a reset.
    std::uint8_t interest() const {
        if (phase_ == Phase::connecting) return EPOLLOUT;
        bool receives = !eof_ && (phase_ == Phase::open ? takes_input() && quota_ != 0 : true);
        return (receives ? EPOLLIN : 0u) | (out_.empty() ? 0u : EPOLLOUT);
    }

    // With input left over, that comes first; epoll reports the rest again.
    bool wants_to_receive() const { return interest() & EPOLLIN && !more_; }

    bool overdue(Time now) const {
        const Limits& limits = shared_.limits;
        Time limit = phase_ == Phase::connecting ? limits.connect
                     : phase_ == Phase::open     ? limits.idle
                                                 : limits.drain;
        bool waits = limit != Time{0} && !is_held();
        return now >= deadline_ || (waits && now - last_progress_ >= limit);
    }

private:
    static constexpr std::size_t no_quota = SIZE_MAX;
    static constexpr Time this_turn = Time::max();

    // Whoever changes buffers makes one of these.
    struct Counted {
        explicit Counted(Connection& c) : conn(c) { conn.shared_.held -= conn.held_bytes(); }
        ~Counted() { conn.shared_.held += conn.held_bytes(); }
        Connection& conn;
    };

    std::size_t max_input() const { return shared_.limits.max_input; }
    bool can_send() const { return !blocked_ && phase_ >= Phase::open && phase_ < Phase::over; }

    // Deadlines count from the end of the turn: a callback may have taken long.
    void progress() { last_progress_ = this_turn; }

    // How many of `bytes` the kernel has taken. For the rest, if any, EPOLLOUT will follow.
    std::size_t send_some(std::string_view bytes) {
        // MSG_NOSIGNAL: an error to look at, not a signal that ends the process.
        ssize_t n = send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n == -1 && errno != EAGAIN && errno != EINTR) lost(errno);
        std::size_t taken = std::max<ssize_t>(n, 0);
        if (taken != 0) progress();
        blocked_ = taken < bytes.size();
        return taken;
    }

    // Nothing more can be sent. What the peer has sent before can still be read.
    void lost(int error) {
        if (error_ == 0) error_ = error;
        out_.clear();
        quota_ = std::max(0, unread(fd()));
    }

    int pending_error() const {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &length);
        return error;
    }

    bool is_own_peer() const {
        Address here, there;
        return getsockname(fd(), here.data(), &here.length) == 0 &&
               getpeername(fd(), there.data(), &there.length) == 0 && here.family() != AF_UNIX &&
               here.length == there.length &&
               std::memcmp(&here.bytes, &there.bytes, here.length) == 0;
    }

    bool input_is_over() const {
        if (eof_ || quota_ == 0) return true;
        return shared_.draining && !awaits_message() && unread(fd()) <= 0;
    }

    // stop() cuts off neither a message that has begun nor a client that has just come.
    bool awaits_message() const {
        bool silent = shared_.now - last_progress_ >= shared_.limits.grace;
        return (fresh_ || !in_.empty()) && !silent;
    }

    // All is sent. close() with input unread, or with more of it to come, makes the kernel send a
    // reset, and that may destroy an answer still on its way. So we say that we have finished,
    // throw away what comes, and wait for the peer's FIN.
    void finish() {
        if (eof_ || error_ != 0 || (shared_.draining && has_arrived())) return enter(Phase::over);
        const Limits& limits = shared_.limits;
        Time most = shared_.draining ? std::min(limits.grace, limits.linger) : limits.linger;
        deadline_ = std::min(deadline_, shared_.now + most);
        if (phase_ == Phase::lingering) return;
        enter(Phase::lingering);
        shutdown(fd(), SHUT_WR);
    }

    // After stop() we need not wait if nothing is unread or unacknowledged.
    bool has_arrived() const { return unread(fd()) == 0 && unacknowledged(fd()) == 0; }

    // For the first bytes, or for more behind those that are in a small buffer.
    void take_chunk() {
        Buffer chunk = shared_.inputs.take();
        chunk.reserve(chunk_size);
        chunk.append(in_.view());
        in_.swap(chunk);
    }

    void shrink() {
        try {
            Buffer small;
            small.append(in_.view());
            in_.swap(small);
            shared_.inputs.give(small);
        } catch (const std::bad_alloc&) {}  // then it stays in the large one
    }

    Shared& shared_;
    Buffer in_;  // received, not consumed
    Buffer out_;  // written, not sent
    std::size_t quota_ = no_quota;  // bytes still to be received, when an end is in sight
    Time last_progress_ = this_turn;  // a message taken, bytes sent
    Time deadline_ = Time::max();
    Address peer_;
    Fd fd_;
    int error_ = 0;
    int in_flight_ = 0;  // unacknowledged bytes, at the last tick that looked
    Phase phase_;
    bool closed_ = false;  // by close(), perhaps before it was up
    bool fresh_ = true;  // no message was taken yet
    bool more_ = false;  // the handler may find another message in in_
    bool held_ = false;  // between hold() and release()
    bool paused_ = false;  // between the high-water mark and the low one
    bool blocked_ = false;  // the kernel takes no more until EPOLLOUT
    bool eof_ = false;  // the peer sends no more
    bool touched_ = false;  // is in the list

public:  // for the loop, which keeps them
    static constexpr std::uint8_t nothing = 0xff;
    std::uint8_t told = nothing;  // the interest(), as epoll was last told
    std::uint32_t serial = 0;  // that of its slot
    Connection* next_touched = nullptr;
};
