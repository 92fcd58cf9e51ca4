// evloop.cpp: the loop. Who calls whom in a turn:
//
//     turn ─┬─ wait                epoll_wait(): what is ready?
//           ├─ dispatch ─┬─ ready          a connection: receive() and offer()     on_read
//           │            │                 it is up                                on_connect
//           │            ├─ accept_some    a listener: adopt() a share             on_accept
//           │            ├─ extra_ready    a descriptor of the handler's           on_fd
//           │            └─ woken          by stop() or post(): run_tasks()
//           ├─ offer_again         messages that handlers have left in their input on_read
//           ├─ judge               whose deadline is over? fail()
//           ├─ tick                                                                on_tick
//           ├─ go_on_stopping      serving, noticed, draining                      on_stop
//           ├─ shed                beyond max_memory: fail() whoever holds the most
//           └─ settle              for each that was touched: advance(), then
//                  ├─ watch        tell epoll, if it waits for something else now
//                  └─ destroy                                                      on_close
//
// A hook is called by survives() and by nothing else. What it asks for is stored in connections,
// and touches them: only settle() destroys, when no event is left that could mean what it destroys.

#include "evloop.h"

#include "common/net.h"
#include "connection.h"

#include <climits>
#include <cxxabi.h>
#include <fcntl.h>
#include <list>
#include <mutex>
#include <optional>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <system_error>
#include <vector>

using namespace std::chrono_literals;

namespace {

constexpr int batch_size = 256;  // events per epoll_wait(); more come back next time
constexpr int accept_share = 8;  // of so many events, one may be a client that is accepted
constexpr std::uint64_t stop_request = std::uint64_t{1} << 32;  // among the wake-ups, each 1

// Run a hook. What it throws is said on stderr, and ends here.
template <class Hook>
bool survives(Hook&& hook) {
    try {
        hook();
        return true;
    } catch (const abi::__forced_unwind&) {
        throw;  // pthread_cancel() ends a thread so, and insists
    } catch (const std::exception& e) {
        std::fprintf(stderr, "evloop: a handler has thrown: %s\n", e.what());
    } catch (...) {
        std::fprintf(stderr, "evloop: a handler has thrown\n");
    }
    return false;
}

}  // namespace

class Loop::Engine {
public:
    Engine(Loop& loop, Handler& handler, const Limits& limits);

    bool turn();
    bool done() const { return stage_ == Stage::draining && connections_ == 0; }
    void shut();

    bool listen(Fd listener);
    Conn* connect(const Address& to);
    bool add_fd(int fd, std::uint32_t events);
    void remove_fd(int fd);
    Conn* find(std::uint64_t id) const;
    std::size_t connections() const { return connections_; }
    bool stopping() const { return stage_ != Stage::serving; }
    void stop() { wake(stop_request); }
    void post(std::function<void()> task);

private:
    // What a descriptor is to us. Events carry its number and the serial of this: an event for one
    // that was closed meanwhile, and whose number is used again, does not fit any more.
    enum class Kind : std::uint8_t { none, listener, connection, extra, waker, timer };
    struct Slot {
        std::uint32_t serial = 0;
        std::uint16_t events = 0;  // of an extra one
        Kind kind = Kind::none;
        std::unique_ptr<Connection> conn;
    };
    struct Listener {
        Fd fd;
        enum { ready, until_room, until_tick } rests = ready;  // out of the list for so long
        bool watched = true;
    };
    enum class Stage { serving, noticed, draining };

    int wait(epoll_event* events);
    int timeout() const;
    bool has_seen_all(int count);
    void dispatch(const epoll_event& event, int batch);
    void ready(Connection& conn, std::uint32_t events);
    void offer(Connection& conn);
    void offer_again(Connection* left_over);
    void accept_some(Listener& listener, int most);
    bool accept_client(Listener& listener);
    void extra_ready(int fd, std::uint32_t events);
    void woken();
    void look_again();
    void judge();
    void tick();
    void go_on_stopping();
    void begin_drain();
    void shed();
    void settle();
    void settle(Connection& conn);
    void destroy(Connection& conn);

    template <class Action>
    void guarded(Connection& conn, Action action);
    template <class Visit>
    void each_conn(Visit visit);
    Connection& adopt(Fd fd, const Address& peer, Phase phase);
    Listener& listener_of(int fd);
    Kind kind(int fd) const { return unsigned(fd) < slots_.size() ? slots_[fd].kind : Kind::none; }
    Slot& install(int fd, Kind kind);
    bool watch(int fd, Kind kind, std::uint32_t events);
    bool watch(Connection& conn);
    bool tell(int operation, int fd, std::uint32_t events);
    void forget(int fd);
    void list_anew();
    void run_tasks();
    void wake(std::uint64_t reason);

    Handler& handler_;
    Shared shared_;
    const Limits& limits_ = shared_.limits;
    Fd epoll_{epoll_create1(EPOLL_CLOEXEC)};
    const Fd wakeup_{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    const Fd timer_{timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
    std::vector<Slot> slots_;  // by descriptor: small numbers, as the lowest free one is given out
    std::list<Listener> listeners_;  // a hook may add one while another accepts
    std::size_t connections_ = 0;
    std::uint32_t last_serial_ = 0;
    Time next_tick_ = shared_.now + limits_.tick;
    std::optional<Time> as_of_;  // somebody was overdue then, if all is read that had come
    std::size_t unseen_ = 0;  // descriptors that may have been ready then
    Stage stage_ = Stage::serving;
    Time stage_ends_ = Time::max();
    int strangers_ = 0;  // events in a row of batches that fit nothing
    bool has_copies_ = false;  // another process may hold copies of our descriptors
    bool stop_requested_ = false;
    const pid_t process_ = getpid();
    std::mutex mutex_;
    std::vector<std::function<void()>> tasks_;  // guarded by mutex_
};

Loop::Engine::Engine(Loop& loop, Handler& handler, const Limits& limits)
    : handler_(handler), shared_(loop, limits) {
    assert(std::min({limits.tick, limits.connect, limits.drain, limits.linger}) > 0ms);
    assert(std::min({limits.idle, limits.grace, limits.notice}) >= 0ms);
    assert(std::max({limits.tick, limits.idle, limits.connect, limits.drain, limits.linger,
                     limits.grace, limits.notice}) <= 24h * 366);
    assert(limits.low_water <= limits.high_water && limits.high_water > 0);
    assert(limits.max_input > 0 && limits.max_connections > 0 && limits.max_memory > 0);
    auto spec = [](Time t) { return timespec{t / 1s, t % 1s / 1ms * 1'000'000}; };
    itimerspec ticks{.it_interval = spec(limits.tick), .it_value = spec(next_tick_)};
    // Edge-triggered, so that nobody has to read how many ticks there were.
    if (!epoll_ || !wakeup_ || !timer_ ||
        timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &ticks, nullptr) == -1 ||
        !watch(timer_.get(), Kind::timer, EPOLLIN | EPOLLET) ||
        !watch(wakeup_.get(), Kind::waker, EPOLLIN))
        throw std::system_error(errno, std::system_category(), "Loop");
}

// Everything is closed, and no hook called. What is destroyed here may belong to the handler, and
// call whatever it likes.
void Loop::Engine::shut() {
    stage_ = Stage::draining;  // nothing new begins
    for (std::size_t fd = 0; fd < slots_.size(); ++fd) {
        std::unique_ptr<Connection> conn = std::move(slots_[fd].conn);
        if (!conn) continue;
        slots_[fd] = {};
        if (getpid() == process_) conn->cut_off();  // in a forked child, it is the parent's
    }
    for (std::vector<std::function<void()>> late; late.swap(tasks_), !late.empty();) late.clear();
}

// ---- A turn ------------------------------------------------------------------------------------

bool Loop::Engine::turn() {
    assert(shared_.owner == std::thread::id{} && "turn() and run() may not be called from a hook");
    struct Turn {
        Shared& shared;
        explicit Turn(Shared& s) : shared(s) { shared.owner = std::this_thread::get_id(); }
        ~Turn() { shared.owner = {}; }
    } under_way(shared_);

    Connection* left_over = shared_.touched;
    epoll_event events[batch_size];
    int count = wait(events);
    int strangers = std::exchange(strangers_, 0);
    for (int i = 0; i < count; ++i) dispatch(events[i], count);
    if (strangers != 0 && strangers_ != 0) list_anew();
    offer_again(left_over);
    shared_.now = clock_now();
    if (has_seen_all(count)) judge();
    if (shared_.now >= next_tick_) tick();
    go_on_stopping();
    shed();
    settle();
    return !done();
}

int Loop::Engine::wait(epoll_event* events) {
    int count = epoll_wait(epoll_.get(), events, batch_size, timeout());
    // After a signal nothing was ready, and the turn goes on with what else is due. Any other error
    // is ours, and would come again at once.
    if (count != -1 || errno == EINTR) return count;
    warn("epoll_wait");
    Time rest = std::max(next_tick_ - clock_now(), 1ms);
    poll(nullptr, 0, static_cast<int>(std::min<Time>(rest, Time{INT_MAX}).count()));
    return count;
}

// Ticks end a sleep by themselves: the timer is in the list.
int Loop::Engine::timeout() const {
    if (shared_.touched != nullptr || as_of_) return 0;
    if (stage_ends_ == Time::max()) return -1;
    Time left = stage_ends_ - clock_now();
    return static_cast<int>(std::clamp(left, Time{0}, Time{INT_MAX}).count());
}

void Loop::Engine::dispatch(const epoll_event& event, int batch) {
    int fd = static_cast<int>(event.data.u64 & UINT32_MAX);
    if (slots_[fd].serial != event.data.u64 >> 32) {
        ++strangers_;  // removed by a hook of this batch, or see list_anew()
        return;
    }
    switch (slots_[fd].kind) {
        case Kind::connection:
            return guarded(*slots_[fd].conn, [&](Connection& c) { ready(c, event.events); });
        case Kind::listener:
            // One, or a few beside many: behind them the listener is still ready. To go on until
            // the queue is found empty would cost 6 % per connection, because accept4() makes a
            // socket before it looks.
            return accept_some(listener_of(fd), 1 + batch / accept_share);
        case Kind::extra:
            return extra_ready(fd, event.events);
        case Kind::waker:
            return woken();
        default:
            return;  // the timer: turn() looks at the clock anyway
    }
}

// Something that ends in hooks, and then the sending of what they have written.
template <class Action>
void Loop::Engine::guarded(Connection& conn, Action action) {
    conn.touch();
    if (!survives([&] { action(conn); })) conn.fail(ECANCELED);
    conn.flush();
}

void Loop::Engine::ready(Connection& conn, std::uint32_t events) {
    if (conn.phase() >= Phase::over) return;  // by a hook that was called earlier in this turn
    if (conn.phase() == Phase::connecting) {
        conn.finish_connect();
        if (conn.phase() == Phase::open) handler_.on_connect(conn);
        return;
    }
    if (events & ~EPOLLIN) conn.unblock();
    if (events & (EPOLLERR | EPOLLHUP) && conn.is_held()) return conn.hang_up();
    // EPOLLERR and EPOLLHUP do not say what has happened and whether data came before it: recv()
    // and send() do.
    conn.throttle();
    if (events & ~EPOLLOUT && conn.wants_to_receive() && conn.receive()) offer(conn);
}

void Loop::Engine::offer(Connection& conn) {
    conn.throttle();  // another hook may have written to it
    if (!conn.takes_input()) return;
    conn.begin_offer();
    handler_.on_read(conn);
    if (conn.is_too_long()) conn.fail(EMSGSIZE);
}

// Input that waits for us and not for the network.
void Loop::Engine::offer_again(Connection* left_over) {
    for (Connection* conn = left_over; conn != nullptr; conn = conn->next_touched)
        if (conn->offers_again()) guarded(*conn, [this](Connection& c) { offer(c); });
}

void Loop::Engine::accept_some(Listener& listener, int most) {
    for (int i = 0; i < most && accept_client(listener); ++i) {}
}

// False when there is nobody who could be accepted now.
bool Loop::Engine::accept_client(Listener& listener) {
    if (connections_ >= limits_.max_connections) return false;
    Address peer;
    Fd fd{accept4(listener.fd.get(), peer.data(), &peer.length, SOCK_NONBLOCK | SOCK_CLOEXEC)};
    if (!fd && errno == EAGAIN) return false;
    if (!fd && may_accept_again(errno)) return true;
    if (!fd) {
        warn("accept");
        listener.rests = out_of_resources(errno) ? Listener::until_room : Listener::until_tick;
        return false;
    }
    return survives([&] {
        Connection& conn = adopt(std::move(fd), peer, Phase::open);
        bool wanted = false;
        survives([&] { wanted = handler_.on_accept(conn); });
        if (!wanted) conn.reject();
    });
}

void Loop::Engine::extra_ready(int fd, std::uint32_t events) {
    // The other side is gone and nothing is left to read: that cannot be masked, and would be
    // reported for ever. A socket at its end also counts as readable, with 0 bytes.
    bool last = events & (EPOLLHUP | EPOLLERR) && (!(events & EPOLLIN) || unread(fd) <= 0);
    std::uint32_t serial = slots_[fd].serial;
    bool fine = survives([&] { handler_.on_fd(fd, events); });
    // An error may be over once it has been read: that of a datagram socket is.
    pollfd now{.fd = fd, .events = 0, .revents = 0};
    bool over = !fine || (last && poll(&now, 1, 0) == 1);
    if (over && slots_[fd].serial == serial) forget(fd);
}

void Loop::Engine::woken() {
    std::uint64_t reasons = 0;
    if (read(wakeup_.get(), &reasons, sizeof reasons) == -1) return;
    if (reasons >= stop_request) stop_requested_ = true;
    run_tasks();  // those posted before stop() too
}

void Loop::Engine::run_tasks() {
    std::vector<std::function<void()>> tasks;
    {
        std::lock_guard lock(mutex_);
        tasks.swap(tasks_);
    }
    for (auto& task : tasks) survives(task);
}

// ---- Time --------------------------------------------------------------------------------------

// The next tick is counted from when this one was due, so that ticks do not drift; those that were
// missed are left out, so that they do not come in a burst.
void Loop::Engine::tick() {
    next_tick_ += ((shared_.now - next_tick_) / limits_.tick + 1) * limits_.tick;
    for (Listener& listener : listeners_) listener.rests = Listener::ready;
    each_conn([this](Connection& conn) {
        if (conn.overdue(shared_.now)) look_again();
        if (stage_ == Stage::draining) conn.touch();  // what it was sent may have arrived by now
    });
    survives([this] { handler_.on_tick(); });
    shared_.now = clock_now();  // it may have taken long
}

// Whoever is overdue may have sent what we have not read yet: the loop may have been held up. So
// deadlines are judged by a later turn, one that has seen all that was ready by now.
void Loop::Engine::look_again() {
    if (as_of_) return;
    as_of_ = shared_.now;
    unseen_ = slots_.size();
}

bool Loop::Engine::has_seen_all(int count) {
    if (!as_of_ || count == -1) return false;
    unseen_ -= std::min<std::size_t>(unseen_, count);
    return count < batch_size || unseen_ == 0;  // epoll_wait(2): batches go round
}

void Loop::Engine::judge() {
    bool all = stage_ == Stage::draining && *as_of_ >= stage_ends_;
    each_conn([&](Connection& conn) {
        if (all || conn.overdue(*as_of_))
            conn.fail(conn.phase() == Phase::lingering ? 0 : ETIMEDOUT);
    });
    as_of_.reset();
}

void Loop::Engine::go_on_stopping() {
    if (stop_requested_ && stage_ == Stage::serving) {
        stage_ = Stage::noticed;
        stage_ends_ = shared_.now + limits_.notice;
        survives([this] { handler_.on_stop(); });
    }
    if (shared_.now < stage_ends_) return;
    if (stage_ == Stage::noticed) begin_drain();
    else look_again();
}

// No new clients. Who is in the queue is served, and of everyone what has come by now.
void Loop::Engine::begin_drain() {
    stage_ = Stage::draining;
    shared_.draining = true;
    for (Listener& listener : listeners_) {
        accept_some(listener, SOMAXCONN);
        forget(listener.fd.get());
    }
    listeners_.clear();
    each_conn([](Connection& conn) { conn.begin_drain(); });
    shared_.now = clock_now();  // all of this may have taken long
    stage_ends_ = shared_.now + limits_.drain;
}

void Loop::Engine::shed() {
    std::size_t held = shared_.held;
    while (held > limits_.max_memory) {
        Connection* largest = nullptr;
        each_conn([&](Connection& conn) {
            if (conn.phase() >= Phase::over) return;
            if (largest == nullptr || conn.held_bytes() > largest->held_bytes()) largest = &conn;
        });
        if (largest == nullptr) return;
        held -= largest->held_bytes();
        largest->fail(ENOBUFS);
    }
}

// ---- The end of a turn -------------------------------------------------------------------------

// Make the kernel agree with what the hooks have asked for. on_close() may ask for more, of other
// connections: that is for the next turn.
void Loop::Engine::settle() {
    Connection* next = std::exchange(shared_.touched, nullptr);
    while (next != nullptr) {
        Connection& conn = *next;
        next = conn.next_touched;
        settle(conn);
    }
    for (Listener& listener : listeners_) {
        bool wanted = listener.rests == Listener::ready && connections_ < limits_.max_connections;
        if (wanted == listener.watched) continue;
        int operation = wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL;
        if (tell(operation, listener.fd.get(), EPOLLIN)) listener.watched = wanted;
    }
}

void Loop::Engine::settle(Connection& conn) {
    conn.advance();
    if (conn.phase() < Phase::over && !watch(conn)) conn.fail(errno);
    if (conn.phase() >= Phase::over) return destroy(conn);
    conn.untouch();
    if (conn.offers_again()) conn.touch();
}

void Loop::Engine::destroy(Connection& conn) {
    --connections_;
    for (Listener& listener : listeners_)
        if (listener.rests == Listener::until_room) listener.rests = Listener::ready;
    if (conn.phase() == Phase::over) {
        conn.enter(Phase::gone);
        survives([&] { handler_.on_close(conn); });
    }
    conn.cut_off();
    if (has_copies_) tell(EPOLL_CTL_DEL, conn.fd(), 0);
    Slot& slot = slots_[conn.fd()];
    std::unique_ptr<Connection> dying = std::move(slot.conn);
    slot = {};
}  // here Conn::state ends, and may call whatever it likes

// ---- What is watched ---------------------------------------------------------------------------

template <class Visit>
void Loop::Engine::each_conn(Visit visit) {
    for (Slot& slot : slots_)
        if (slot.conn) visit(*slot.conn);
}

Loop::Engine::Listener& Loop::Engine::listener_of(int fd) {
    return *std::ranges::find_if(listeners_, [fd](Listener& l) { return l.fd.get() == fd; });
}

Loop::Engine::Slot& Loop::Engine::install(int fd, Kind kind) {
    if (unsigned(fd) >= slots_.size()) slots_.resize(fd + 1 + fd / 8);
    if (slots_[fd].kind != Kind::none) forget(fd);  // closed by its owner before remove_fd()
    slots_[fd].serial = ++last_serial_;
    slots_[fd].kind = kind;
    return slots_[fd];
}

Connection& Loop::Engine::adopt(Fd fd, const Address& peer, Phase phase) {
    auto conn = std::make_unique<Connection>(shared_, std::move(fd), peer, phase);
    Slot& slot = install(conn->fd(), Kind::connection);
    conn->serial = slot.serial;
    slot.conn = std::move(conn);
    ++connections_;
    slot.conn->touch();  // settle() will put it into the interest list
    return *slot.conn;
}

// False, with errno, if the kernel refuses.
bool Loop::Engine::watch(int fd, Kind kind, std::uint32_t events) {
    install(fd, kind).events = static_cast<std::uint16_t>(events);
    if (tell(EPOLL_CTL_ADD, fd, events)) return true;
    slots_[fd] = {};
    return false;
}

bool Loop::Engine::watch(Connection& conn) {
    std::uint32_t events = conn.interest();
    if (events == conn.told) return true;
    bool is_new = conn.told == Connection::not_in_list;
    if (!tell(is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, conn.fd(), events)) return false;
    conn.told = events;
    return true;
}

bool Loop::Engine::tell(int operation, int fd, std::uint32_t events) {
    epoll_event event{.events = events, .data = {.u64 = name_of(slots_[fd].serial, fd)}};
    return epoll_ctl(epoll_.get(), operation, fd, &event) == 0;
}

void Loop::Engine::forget(int fd) {
    tell(EPOLL_CTL_DEL, fd, 0);  // fails if the owner has closed it: epoll knows that already
    slots_[fd] = {};
}

// An event that fits nothing, in one batch and in the next: a descriptor was closed, but not all
// copies of it, for there is a child that was made by fork(). It stays in the list then, under a
// number that is not ours any more to take it out by (epoll(7), Q6). Rather than have every close()
// preceded by an EPOLL_CTL_DEL just in case, we begin a new list when it happens.
void Loop::Engine::list_anew() {
    Fd fresh{epoll_create1(EPOLL_CLOEXEC)};
    if (!fresh) return;
    epoll_ = std::move(fresh);
    has_copies_ = true;
    for (Listener& listener : listeners_) listener.watched = false;  // settle() puts it back
    for (std::size_t fd = 0; fd < slots_.size(); ++fd) {
        Slot& slot = slots_[fd];
        if (slot.conn) slot.conn->told = Connection::not_in_list, slot.conn->touch();
        if (slot.kind == Kind::waker) tell(EPOLL_CTL_ADD, fd, EPOLLIN);
        if (slot.kind == Kind::timer) tell(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET);
        if (slot.kind == Kind::extra) tell(EPOLL_CTL_ADD, fd, slot.events);
    }
}

bool Loop::Engine::listen(Fd listener) {
    int fd = listener.get();
    int listens = 0;
    socklen_t length = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == -1) return false;
    errno = stage_ == Stage::draining ? ECANCELED : EINVAL;
    if (stage_ == Stage::draining || listens == 0) return false;
    int flags = fcntl(fd, F_GETFL);
    if (flags == -1 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == -1) return false;
    listeners_.push_back({.fd = std::move(listener)});
    bool watched = false;
    survives([&] { watched = watch(fd, Kind::listener, EPOLLIN); });
    if (!watched) listeners_.pop_back();
    return watched;
}

Conn* Loop::Engine::connect(const Address& to) {
    errno = ECANCELED;
    if (stage_ == Stage::draining) return nullptr;
    Fd fd{socket(to.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    if (!fd) return nullptr;
    int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    Connection& conn = adopt(std::move(fd), to, Phase::connecting);
    // EINTR: the attempt goes on all the same (connect(2)).
    if (::connect(conn.fd(), to.data(), to.length) == -1 && errno != EINPROGRESS && errno != EINTR)
        conn.fail(errno);
    return &conn;
}

bool Loop::Engine::add_fd(int fd, std::uint32_t events) {
    remove_fd(fd);
    errno = EEXIST;
    if (kind(fd) != Kind::none) return false;
    return fcntl(fd, F_GETFD) != -1 && watch(fd, Kind::extra, events);
}

void Loop::Engine::remove_fd(int fd) {
    if (kind(fd) == Kind::extra) forget(fd);
}

Conn* Loop::Engine::find(std::uint64_t id) const {
    int fd = static_cast<int>(id & UINT32_MAX);
    bool known = kind(fd) == Kind::connection && slots_[fd].serial == id >> 32;
    return known ? slots_[fd].conn.get() : nullptr;
}

// The loop may be gone as soon as it has got the task, or is told to stop: neither this nor stop()
// touches anything of it behind the call that tells it.
void Loop::Engine::post(std::function<void()> task) {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    wake(1);
}

// From another thread or a signal handler: write() is async-signal-safe (signal-safety(7)).
void Loop::Engine::wake(std::uint64_t reason) {
    int saved = errno;
    // It can only fail when the counter is full, and then the loop is about to wake up anyway.
    [[maybe_unused]] ssize_t n = write(wakeup_.get(), &reason, sizeof reason);
    errno = saved;
}

// ---- Loop --------------------------------------------------------------------------------------

Loop::Loop(Handler& handler, Limits limits)
    : engine_(std::make_unique<Engine>(*this, handler, limits)) {}
Loop::~Loop() { engine_->shut(); }

void Loop::run() {
    while (!engine_->done() && turn()) {}
}

bool Loop::turn() { return engine_->turn(); }
bool Loop::listen(Fd listener) { return engine_->listen(std::move(listener)); }
Conn* Loop::connect(const Address& to) { return engine_->connect(to); }
bool Loop::add_fd(int fd, std::uint32_t events) { return engine_->add_fd(fd, events); }
void Loop::remove_fd(int fd) { engine_->remove_fd(fd); }
Conn* Loop::conn(std::uint64_t id) const { return engine_->find(id); }
std::size_t Loop::connections() const { return engine_->connections(); }
bool Loop::stopping() const { return engine_->stopping(); }
void Loop::stop() { engine_->stop(); }
void Loop::post(std::function<void()> task) { engine_->post(std::move(task)); }
