#include "evloop.h"

#include "common/net.h"

#include <bit>
#include <cassert>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <ctime>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <system_error>

using namespace std::chrono_literals;

namespace {

constexpr std::size_t read_size = 64 << 10;  // bytes per recv(): less costs throughput
constexpr std::size_t direct_write = 16 << 10;  // bytes: a copy would cost more than a send()
constexpr std::size_t chunk_size = 128 << 10;  // bytes of a buffer to receive into
constexpr std::size_t small_input = 16 << 10;  // bytes left over that do not justify a chunk
constexpr std::size_t max_chunks = 16;  // empty buffers kept
constexpr std::size_t max_spares = 256;  // empty buffers kept

std::chrono::milliseconds clock_now() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::chrono::milliseconds(now.tv_sec * 1000 + now.tv_nsec / 1'000'000);
}

// Bytes that have come and are not read yet; -1 if the kernel does not say.
int unread(int fd) {
    int bytes = 0;
    return ioctl(fd, FIONREAD, &bytes) == 0 ? bytes : -1;
}

// Run a hook. What it throws is said on stderr, and ends here.
template <class Hook>
bool survives(Hook&& hook) noexcept {
    try {
        hook();
        return true;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "evloop: a handler has thrown: %s\n", e.what());
    } catch (...) {
        std::fprintf(stderr, "evloop: a handler has thrown\n");
    }
    return false;
}

}  // namespace

// ---- Conn: what handlers ask for ---------------------------------------------------------------

Conn::Conn(Loop& loop, Fd fd, const Address& peer, std::uint64_t id)
    : Source(loop, std::move(fd)), id_(id), peer_(peer) {}

void Conn::consume(std::size_t n) {
    n = std::min(n, in_.size());  // after close() there is nothing
    in_.consume(n);
    if (n != 0) {
        progressed_ = true;
        more_ = !in_.empty();
    }
    if (out_.size() >= loop_.limits_.high_water) paused_ = true;
    loop_.touch(*this);
}

void Conn::write(std::string_view bytes) {
    if (closing_ || broken_ || dead_) return;
    loop_.touch(*this);
    // Small writes are put together and sent in settle(): one send() for all answers of a turn. Of
    // a large one, what the kernel takes at once need not be copied.
    if (bytes.size() >= direct_write && out_.empty() && !connecting_)
        bytes.remove_prefix(send_some(bytes));
    if (bytes.empty() || broken_) return;
    if (out_.empty()) out_ = loop_.take(loop_.spares_);
    try {
        out_.append(bytes);
    } catch (const std::bad_alloc&) {
        lost(ENOMEM);  // the kernel may have the first part
        fail(ENOMEM);
    }
}

void Conn::hold() {
    if (closing_) return;
    held_ = true;
    loop_.touch(*this);
}

void Conn::release() {
    if (!std::exchange(held_, false)) return;
    more_ = !in_.empty();
    progressed_ = true;
    loop_.touch(*this);
}

void Conn::close() {
    loop_.touch(*this);
    if (std::exchange(closing_, true)) return;
    held_ = more_ = false;
    in_.clear();
    progressed_ = true;
}

void Conn::fail(int error) {
    if (error_ == 0) error_ = error;
    dead_ = true;
    loop_.touch(*this);
}

// ---- Conn: what the kernel reports -------------------------------------------------------------

void Conn::on_ready(std::uint32_t events) {
    loop_.touch(*this);
    if (dead_) return;  // by a hook that was called earlier in this turn
    if (connecting_) return finish_connect();
    // EPOLLERR and EPOLLHUP do not say what has happened and whether data came before it: recv()
    // and send() do. With input left over (more_), that comes first; epoll reports the rest again.
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP) && interest() & EPOLLIN && !more_) receive();
}

void Conn::finish_connect() {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0 && unread(fd()) <= 0) return fail(error);
    connecting_ = false;
    progressed_ = true;
    if (error != 0) lost(error);  // it was up: there is data that the reset came behind
    loop_.handler_.on_connect(*this);
}

// One recv() per turn. Level-triggered epoll reports what is left when the others have had theirs,
// so nobody can hold the loop, and no call is spent on finding EAGAIN.
void Conn::receive() {
    // None yet, or a small one for the beginning of a message.
    if (in_.capacity() < chunk_size) move_input(loop_.take(loop_.chunks_), chunk_size);
    std::size_t room = std::min(read_size, loop_.limits_.max_input - in_.size());
    ssize_t n = recv(fd(), in_.reserve(room), room, 0);
    if (n > 0 && !closing_) {
        in_.commit(n);
        offer();
    } else if (n == 0) {
        eof_ = true;
    } else if (n == -1 && errno == EAGAIN) {
        drained_ = loop_.stopping_;
    } else if (n == -1 && errno != EINTR) {
        lost(errno);
        eof_ = true;
    }
    tidy();
}

void Conn::offer() {
    more_ = false;  // unless it takes something
    loop_.handler_.on_read(*this);
    if (takes_input() && in_.size() >= loop_.limits_.max_input) fail(EMSGSIZE);
}

// Input that waits for us and not for the network: the rest of what the handler has not finished
// with, and after stop() what had come by then.
bool Conn::offers_again() const {
    if (dead_ || connecting_ || !takes_input()) return false;
    return more_ || (loop_.stopping_ && !eof_ && !drained_);
}

void Conn::offer_again() {
    if (!offers_again()) return;
    if (!more_) return receive();
    offer();
    tidy();
}

// Nothing more can be sent. What the peer has sent before can still be read, so this is not the end
// yet; shutdown() sees to it that it comes behind that, whatever the error was.
void Conn::lost(int error) {
    if (error_ == 0) error_ = error;
    broken_ = true;
    out_.clear();
    shutdown(fd(), SHUT_RD);
}

// How many of `bytes` the kernel has taken. For the rest, if any, EPOLLOUT will follow.
std::size_t Conn::send_some(std::string_view bytes) {
    // MSG_NOSIGNAL: an error to look at, not a signal that ends the process.
    ssize_t n = send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n == -1 && errno != EAGAIN && errno != EINTR) lost(errno);
    if (n <= 0) return 0;
    progressed_ = true;
    return n;
}

// ---- Conn: the end of a turn -------------------------------------------------------------------

// What we wait for follows from the state of the connection, here and nowhere else.
std::uint32_t Conn::interest() const {
    if (connecting_) return EPOLLOUT;
    std::uint32_t events = 0;
    if (!eof_ && (takes_input() || closing_)) events |= EPOLLIN;
    if (!out_.empty()) events |= EPOLLOUT;
    return events;
}

bool Conn::overdue() const {
    if (progressed_ || (held_ && !connecting_)) return false;
    const Limits& limits = loop_.limits_;
    auto limit = connecting_ ? limits.connect : closing_ ? limits.drain : limits.idle;
    return limit != 0ms && loop_.now_ - last_progress_ >= limit;
}

void Conn::settle() {
    if (dead_ || connecting_) return;
    if (!out_.empty()) out_.consume(send_some(out_.view()));
    if (out_.size() >= loop_.limits_.high_water) {
        paused_ = true;
    } else if (paused_ && out_.size() <= loop_.limits_.low_water) {
        paused_ = false;
        more_ = !in_.empty();
    }
    if ((eof_ || drained_) && takes_input() && !more_) close();
    if (closing_ && out_.empty()) {
        if (safe_to_close()) dead_ = true;
        else if (!std::exchange(shut_, true)) shutdown(fd(), SHUT_WR);
    }
    tidy();
}

// close() with input unread, or before all has arrived, makes the kernel send a reset, and that may
// destroy an answer still on its way. So we say that we have finished, throw away what comes, and
// wait for the peer's FIN. After stop() we need not if nothing is unread or unacknowledged.
bool Conn::safe_to_close() const {
    int unacknowledged = 1;
    return eof_ || (loop_.stopping_ && unread(fd()) == 0 &&
                    ioctl(fd(), SIOCOUTQ, &unacknowledged) == 0 && unacknowledged == 0);
}

// An idle connection holds no buffers, and one that waits for the rest of a message no chunk.
void Conn::tidy() {
    if (out_.empty()) loop_.recycle(std::move(out_));
    if (in_.empty()) loop_.recycle(std::move(in_));
    if (in_.size() <= small_input && in_.capacity() >= chunk_size)
        move_input(loop_.take(loop_.spares_), in_.size());
}

void Conn::move_input(Buffer to, std::size_t capacity) {
    to.reserve(capacity);
    to.append(in_.view());
    in_.swap(to);
    loop_.recycle(std::move(to));
}

// ---- Loop: what it watches ---------------------------------------------------------------------

struct Loop::Listener : Source {
    using Source::Source;
    void on_ready(std::uint32_t) override { loop_.accept_client(fd()); }
};

struct Loop::Extra : Source {
    Extra(Loop& loop, int fd) : Source(loop, Fd{fd}) {}
    ~Extra() override { fd_.release(); }  // it was borrowed

    void on_ready(std::uint32_t events) override {
        bool last = over(events);
        loop_.handler_.on_fd(fd(), events);
        // An error may be over once it has been read: that of a datagram socket is.
        pollfd now{.fd = fd(), .events = 0, .revents = 0};
        if (last && poll(&now, 1, 0) == 1) give_up();
    }

    // The other side is gone and nothing is left to read. That cannot be masked, so it would be
    // reported for ever. A socket at its end also counts as readable, with 0 bytes.
    bool over(std::uint32_t events) const {
        return events & (EPOLLHUP | EPOLLERR) && (!(events & EPOLLIN) || unread(fd()) == 0);
    }

    void give_up() override {
        if (loop_.at(fd()) == this) loop_.retire(fd());
    }
};

struct Loop::Wakeup : Source {
    using Source::Source;
    void on_ready(std::uint32_t) override {
        std::uint64_t count;
        if (read(fd(), &count, sizeof count) > 0) loop_.run_tasks();
    }
};

Loop::Loop(Handler& handler, Limits limits)
    : handler_(handler), limits_(limits), epoll_(epoll_create1(EPOLL_CLOEXEC)), now_(clock_now()) {
    assert(std::min({limits_.tick, limits_.connect, limits_.drain}) > 0ms);
    assert(limits_.low_water <= limits_.high_water && limits_.high_water > 0);
    assert(std::max({limits_.tick, limits_.idle, limits_.connect, limits_.drain}) <= 24h * 366);
    next_tick_ = now_ + limits_.tick;
    chunks_.reserve(max_chunks);
    spares_.reserve(max_spares);
    Fd wakeup{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    wakeup_ = wakeup.get();
    if (!epoll_ || !wakeup || !watch(std::make_unique<Wakeup>(*this, std::move(wakeup)), EPOLLIN))
        throw std::system_error(errno, std::system_category(), "Loop");
}

Loop::~Loop() {
    stopping_ = true;  // on_close() can begin nothing new
    each_conn([](Conn& conn) { conn.fail(ECANCELED); });
    do settle();
    while (!touched_.empty());
}

bool Loop::listen(Fd listener) {
    if (stopping_) return errno = ECANCELED, false;
    int flags = fcntl(listener.get(), F_GETFL);
    if (flags == -1 || fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK) == -1) return false;
    int fd = listener.get();
    listeners_.reserve(listeners_.size() + 1);  // so that nothing can fail once it is watched
    if (!watch(std::make_unique<Listener>(*this, std::move(listener)), EPOLLIN)) return false;
    listeners_.push_back(fd);
    return true;
}

Conn* Loop::connect(const Address& to) {
    if (stopping_) return errno = ECANCELED, nullptr;
    Fd fd{socket(to.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    if (!fd) return nullptr;
    int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

    Conn& conn = adopt(std::move(fd), to);
    conn.accepted_ = conn.connecting_ = true;
    // EINTR: the attempt goes on all the same (connect(2)).
    if (::connect(conn.fd(), to.data(), to.length) == -1 && errno != EINPROGRESS && errno != EINTR)
        conn.fail(errno);
    return &conn;
}

bool Loop::add_fd(int fd, std::uint32_t events) {
    remove_fd(fd);
    if (at(fd) != nullptr) return errno = EEXIST, false;
    if (fcntl(fd, F_GETFD) == -1) return false;
    return watch(std::make_unique<Extra>(*this, fd), events);
}

void Loop::remove_fd(int fd) {
    if (dynamic_cast<Extra*>(at(fd)) != nullptr) retire(fd);
}

Source* Loop::at(int fd) const {
    return fd >= 0 && static_cast<std::size_t>(fd) < sources_.size() ? sources_[fd].get() : nullptr;
}

Conn* Loop::conn(int fd) const { return dynamic_cast<Conn*>(at(fd)); }

template <class Visit>
void Loop::each_conn(Visit visit) {
    for (auto& source : sources_)
        if (auto* conn = dynamic_cast<Conn*>(source.get())) visit(*conn);
}

// Install a source and wait for `events`. False, with errno, and it is gone, if the kernel refuses.
bool Loop::watch(std::unique_ptr<Source> source, std::uint32_t events) {
    int fd = source->fd();
    Source& installed = install(std::move(source));
    if (set_interest(installed, events)) return true;
    int error = errno;
    sources_[fd].reset();
    errno = error;
    return false;
}

// Descriptors are small numbers, as the kernel gives out the lowest free one: a vector is the map.
Source& Loop::install(std::unique_ptr<Source> source) {
    std::size_t fd = source->fd();
    if (fd >= sources_.size()) {
        std::size_t size = std::bit_ceil(fd + 1);
        touched_.reserve(size);  // here, so that touch() needs no memory
        settling_.reserve(size);
        sources_.resize(size);
    }
    if (sources_[fd]) retire(fd);  // an extra descriptor that was closed before remove_fd()
    sources_[fd] = std::move(source);
    return *sources_[fd];
}

// An event for it may still be in the batch that is being dispatched, so the object outlives it.
void Loop::retire(int fd) {
    set_interest(*sources_[fd], 0);  // fails if the owner has closed it: epoll knows that already
    sources_[fd]->next_ = std::move(retired_);
    retired_ = std::move(sources_[fd]);
}

bool Loop::set_interest(Source& source, std::uint32_t events) {
    if (events == source.interest_) return true;
    // To wait for nothing is to be out of the list: EPOLLHUP and EPOLLERR cannot be masked, and
    // would be reported for ever.
    int operation = source.interest_ == 0 ? EPOLL_CTL_ADD
                    : events == 0         ? EPOLL_CTL_DEL
                                          : EPOLL_CTL_MOD;
    epoll_event event{.events = events, .data = {.ptr = &source}};
    if (epoll_ctl(epoll_.get(), operation, source.fd(), &event) == -1) return false;
    source.interest_ = events;
    return true;
}

Conn& Loop::adopt(Fd fd, const Address& peer) {
    std::unique_ptr<Conn> source(new Conn(*this, std::move(fd), peer, ++last_id_));
    Conn& conn = *source;
    install(std::move(source));
    ++connections_;
    touch(conn);  // settle() will put it into the interest list
    return conn;
}

void Loop::touch(Conn& conn) {
    if (!std::exchange(conn.touched_, true)) touched_.push_back(&conn);
}

// Buffers go round: the one given back last is taken first, because it is still in the cache.
Buffer Loop::take(std::vector<Buffer>& pool) {
    if (pool.empty()) return {};
    Buffer buffer = std::move(pool.back());
    pool.pop_back();
    return buffer;
}

void Loop::recycle(Buffer buffer) {
    if (buffer.capacity() == 0) return;
    auto& pool = buffer.capacity() >= chunk_size ? chunks_ : spares_;
    buffer.clear();
    if (pool.size() < pool.capacity() && buffer.capacity() <= 2 * chunk_size)
        pool.push_back(std::move(buffer));
}

// ---- Loop: a turn ------------------------------------------------------------------------------

void Loop::run() {
    while (turn()) {}
}

bool Loop::turn() {
    std::size_t left_over = touched_.size();
    dispatch();
    for (std::size_t i = 0; i < left_over; ++i) {
        Conn& conn = *touched_[i];
        if (!survives([&] { conn.offer_again(); })) conn.give_up();
    }
    now_ = clock_now();  // once for a turn and not for each message
    if (now_ >= next_tick_) tick();
    if (stop_requested_ && !stopping_) begin_stop();
    if (now_ >= stop_deadline_) each_conn([](Conn& conn) { conn.fail(ETIMEDOUT); });
    settle();
    return !stopping_ || connections_ != 0;
}

// How long to sleep: until the next deadline, or not at all if something is left to do.
// epoll_wait() never returns early, so that it need not be asked twice.
int Loop::timeout() const {
    if (!touched_.empty()) return 0;
    Time left = std::min(next_tick_, stop_deadline_) - clock_now();
    return static_cast<int>(std::clamp(left, Time{0}, Time{INT_MAX}).count());
}

void Loop::dispatch() {
    epoll_event events[256];  // more come back next time
    int count = epoll_wait(epoll_.get(), events, std::size(events), timeout());
    // After EINTR the count is -1: nothing was ready, and the turn goes on with what else is due.
    for (int i = 0; i < count; ++i) {
        auto& source = *static_cast<Source*>(events[i].data.ptr);
        if (at(source.fd()) != &source) continue;  // retired by a hook of this batch
        if (!survives([&] { source.on_ready(events[i].events); })) source.give_up();
    }
}

// One client in a turn: behind it the listener is still ready. To go on until the queue is found
// empty would cost 6 % per connection, because accept4() makes a socket before it looks. False when
// there is nobody who could be accepted now.
bool Loop::accept_client(int listener) {
    if (connections_ >= limits_.max_connections) return false;
    Address peer;
    Fd fd{accept4(listener, peer.data(), &peer.length, SOCK_NONBLOCK | SOCK_CLOEXEC)};
    if (!fd && out_of_resources(errno)) {
        warn("accept");
        accepting_ = false;  // until a connection has ended, or the next tick
        return false;
    }
    if (!fd) return errno != EAGAIN;  // EINTR, or a connection that broke while it was waiting
    Conn& conn = adopt(std::move(fd), peer);
    survives([&] { conn.accepted_ = handler_.on_accept(conn); });
    if (!conn.accepted_) conn.fail(ECONNABORTED);
    return true;
}

// From another thread or a signal handler: write() is async-signal-safe (signal-safety(7)).
void Loop::stop() {
    stop_requested_ = true;
    wake();
}

void Loop::post(std::function<void()> task) {
    {
        std::lock_guard lock(mutex_);
        tasks_.push_back(std::move(task));
    }
    wake();
}

void Loop::wake() {
    int saved = errno;
    std::uint64_t one = 1;
    // It can only fail when the counter is full, and then the loop is about to wake up anyway.
    [[maybe_unused]] ssize_t n = write(wakeup_, &one, sizeof one);
    errno = saved;
}

void Loop::run_tasks() {
    std::vector<std::function<void()>> tasks;
    {
        std::lock_guard lock(mutex_);
        tasks.swap(tasks_);
    }
    for (auto& task : tasks) survives(task);
}

// The next tick is counted from when this one was due, so that ticks do not drift; those that were
// missed are left out, so that they do not come in a burst.
void Loop::tick() {
    next_tick_ += ((now_ - next_tick_) / limits_.tick + 1) * limits_.tick;
    accepting_ = true;  // somebody else may have given back a descriptor
    each_conn([this](Conn& conn) {
        if (conn.overdue()) conn.fail(conn.shut_ ? 0 : ETIMEDOUT);
        if (stopping_) touch(conn);  // what it was sent may be acknowledged by now
    });
    survives([this] { handler_.on_tick(); });
    now_ = clock_now();  // it may have taken long
}

// No new clients. Who is in the queue is served, and of everyone what has come by now.
void Loop::begin_stop() {
    run_tasks();  // posted before stop(), and perhaps since this turn's wait
    stopping_ = true;
    stop_deadline_ = now_ + limits_.drain;
    for (int listener : listeners_) {
        bool more = true;
        for (int i = 0; i < SOMAXCONN && more; ++i)
            survives([&] { more = accept_client(listener); });
        retire(listener);
    }
    listeners_.clear();
    each_conn([this](Conn& conn) {
        if (conn.connecting_) conn.fail(ECANCELED);
        touch(conn);
    });
}

// Make the kernel agree with what the hooks have asked for. on_close() may ask for more, of other
// connections: that is for the next turn.
void Loop::settle() {
    settling_.swap(touched_);
    for (std::size_t i = 0; i < settling_.size(); ++i)
        settle(*settling_[i]);  // on_close() may connect(), and so move the array
    settling_.clear();
    while (retired_) retired_ = std::move(retired_->next_);  // not recursively: it may be long
    bool room = accepting_ && connections_ < limits_.max_connections;
    for (int listener : listeners_) set_interest(*at(listener), room ? EPOLLIN + 0u : 0u);
}

void Loop::settle(Conn& conn) {
    if (!survives([&] { conn.settle(); })) conn.give_up();  // out of memory, in tidy()
    // Deadlines count from the end of the turn: a callback may have taken long.
    if (std::exchange(conn.progressed_, false)) conn.last_progress_ = now_;
    if (!conn.dead_ && !set_interest(conn, conn.interest())) conn.fail(errno);
    if (conn.dead_) return destroy(conn);
    conn.touched_ = false;
    if (conn.offers_again()) touch(conn);
}

void Loop::destroy(Conn& conn) {
    --connections_;
    accepting_ = true;  // there will be a free descriptor
    if (conn.accepted_) survives([&] { handler_.on_close(conn); });

    // close() alone takes it out of the list only with the last copy of the descriptor, and a
    // process that was forked just now may have one (epoll(7), Q6).
    set_interest(conn, 0);
    linger reset{.l_onoff = 1, .l_linger = 0};  // else a cut stream would look like a whole one
    if (!conn.out_.empty() || conn.broken_)
        setsockopt(conn.fd(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    sources_[conn.fd()].reset();
}
