// evloop.cpp: the loop. Who calls whom in a turn:
//
//     turn ─┬─ wait             what is ready? Sleeps until something is
//           ├─ dispatch ─┬─ ready            a connection: receive(), offer()     on_read
//           │            │                   it is up                             on_connect
//           │            ├─ accept_client    a listener: adopt()                  on_accept
//           │            ├─ ready_extra      a descriptor of the handler's        on_fd
//           │            └─ woken            by stop() or post(): run_tasks()
//           ├─ offer_again      messages that handlers have left in their input   on_read
//           ├─ judge            whose deadline has passed? fail()
//           ├─ tick                                                               on_tick
//           ├─ go_on_stopping   serving, noticed, draining                        on_stop
//           ├─ shed             beyond max_memory: fail() whoever holds the most
//           └─ settle           for each that was touched: advance(), then
//                  ├─ watch     tell epoll, if it waits for something else now
//                  └─ destroy                                                     on_close
//
// Hooks are called by survives() and by nothing else. What they ask for is stored in connections,
// and touches them. Only settle() destroys, when no event is left that could mean what it destroys.

#include "evloop.h"

#include "common/net.h"
#include "connection.h"

#include <climits>
#include <cxxabi.h>
#include <fcntl.h>
#include <list>
#include <mutex>
#include <netinet/tcp.h>
#include <optional>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <system_error>
#include <vector>

using namespace std::chrono_literals;

namespace {

constexpr int batch_size = 256;  // events per epoll_wait(); more come back next time
constexpr int accept_share = 8;  // of so many events, one may be a client that is accepted
constexpr std::uint64_t stop_request = std::uint64_t{1} << 32;  // to the wakeup; a task is 1

// Run a hook. What it throws is said on stderr, and ends here.
template <class Hook>
bool survives(Hook&& hook) {
    try {
        hook();
        return true;
    } catch (const abi::__forced_unwind&) {
        throw;  // so pthread_cancel() ends a thread, and insists
    } catch (const std::exception& e) {
        say("evloop: a handler has thrown: %s", e.what());
    } catch (...) {
        say("evloop: a handler has thrown");
    }
    return false;
}

}  // namespace

class Loop::Engine {
public:
    // What a descriptor is to us. Events carry its number and the serial of this: an event for one
    // that was closed meanwhile, and whose number is used again, does not fit any more.
    struct Slot {
        enum Kind : std::uint8_t { none, listener, connection, extra, waker, timer };

        std::uint32_t serial = 0;
        std::uint16_t events = 0;  // of an extra one, and of our own
        Kind kind = none;
        std::unique_ptr<Connection> conn;
    };

    struct Listener {
        Fd fd;
        enum { ready, until_room, until_tick } rests = ready;  // out of the list for so long
        bool watched = true;
    };

    enum class Stage { serving, noticed, draining };

    Engine(Loop& loop, Handler& its_handler, const Limits& its_limits)
        : handler(its_handler), shared(loop, its_limits) {
        assert(std::min({limits.tick, limits.connect, limits.drain, limits.linger}) > 0ms);
        assert(std::min({limits.idle, limits.grace, limits.notice}) >= 0ms);
        assert(std::max({limits.tick, limits.idle, limits.connect, limits.drain, limits.linger,
                         limits.grace, limits.notice}) <= 24h * 366);
        assert(limits.low_water <= limits.high_water && limits.high_water > 0);
        assert(limits.max_input > 0 && limits.max_connections > 0 && limits.max_memory > 0);
        if (!epoll || !wakeup || !timer || !watch(wakeup.get(), Slot::waker, EPOLLIN) ||
            !watch(timer.get(), Slot::timer, EPOLLIN))
            throw std::system_error(errno, std::system_category(), "Loop");
        auto spec = [](Time t) { return timespec{t / 1s, t % 1s / 1ms * 1'000'000}; };
        itimerspec ticks{.it_interval = spec(limits.tick), .it_value = spec(next_tick)};
        timerfd_settime(timer.get(), TFD_TIMER_ABSTIME, &ticks, nullptr);
    }

    // No hook is called, but what is destroyed may be the handler's, and call whatever it likes.
    ~Engine() {
        stage = Stage::draining;  // nothing new begins
        for (std::size_t fd = 0; fd < slots.size(); ++fd) {
            Slot last_of_it = std::exchange(slots[fd], {});
            // In a child that was forked the connection is its parent's.
            if (last_of_it.conn && getpid() == process) last_of_it.conn->cut_off();
        }
        while (!tasks.empty()) decltype(tasks)().swap(tasks);
    }

    bool done() const { return stage == Stage::draining && connections == 0; }

    // ---- A turn --------------------------------------------------------------------------------

    bool turn() {
        Connection* left_over = shared.touched;
        epoll_event events[batch_size];
        int count = wait(events);
        int strangers_before = std::exchange(strangers, 0);
        for (int i = 0; i < count; ++i) dispatch(events[i], count);
        if (strangers_before != 0 && strangers != 0) list_anew();
        offer_again(left_over);
        shared.now = clock_now();
        if (has_seen_all(count)) judge();
        if (shared.now >= next_tick) tick();
        go_on_stopping();
        shed();
        settle();
        return !done();
    }

    int wait(epoll_event* events) {
        Time left = stage_ends == Time::max() ? Time{-1} : std::max(stage_ends - clock_now(), 0ms);
        if (shared.touched != nullptr || as_of) left = 0ms;
        int timeout = static_cast<int>(std::min<Time>(left, Time{INT_MAX}).count());
        int count = epoll_wait(epoll.get(), events, batch_size, timeout);
        // After a signal nothing was ready, and the turn goes on with what else is due. Any other
        // error is a mistake of ours, and would come again at once.
        if (count != -1 || errno == EINTR) return count;
        warn("epoll_wait");
        Time rest = std::clamp<Time>(next_tick - clock_now(), 1ms, 1min);
        pollfd woken_up{.fd = wakeup.get(), .events = POLLIN, .revents = 0};  // stop() must work
        if (poll(&woken_up, 1, static_cast<int>(rest.count())) == 1) woken();
        return 0;
    }

    void dispatch(const epoll_event& event, int batch) {
        int fd = static_cast<int>(event.data.u64 & UINT32_MAX);
        Slot& slot = slots[fd];
        if (slot.serial != event.data.u64 >> 32) {
            ++strangers;  // removed by a hook of this batch; or see list_anew()
        } else if (slot.kind == Slot::connection) {
            guarded(*slot.conn, [&](Connection& conn) { ready(conn, event.events); });
        } else if (slot.kind == Slot::listener) {
            // One, or a share of many: behind them the listener is still ready. To go on until the
            // queue is found empty would cost 6 % per connection, because accept4() makes a socket
            // before it looks.
            for (int i = 0; i <= batch / accept_share && accept_client(listener_at(fd)); ++i) {}
        } else if (slot.kind == Slot::extra) {
            ready_extra(fd, event.events);
        } else if (slot.kind == Slot::waker) {
            woken();
        } else if (slot.kind == Slot::timer) {
            // It has ended a sleep, and turn() looks at the clock. It is only set again by this.
            std::uint64_t times = 0;
            [[maybe_unused]] ssize_t n = read(fd, &times, sizeof times);
        }
    }

    // Something that ends in hooks, and then the sending of what they have written.
    template <class Action>
    void guarded(Connection& conn, Action action) {
        conn.touch();
        if (!survives([&] { action(conn); })) conn.fail(ECANCELED);
        conn.flush();
    }

    void ready(Connection& conn, std::uint32_t events) {
        if (conn.phase() >= Phase::over) return;  // by a hook that was called earlier in this turn
        if (conn.phase() == Phase::connecting) {
            conn.finish_connect();
            if (conn.phase() == Phase::open) handler.on_connect(conn);
            return;
        }
        if (events & ~EPOLLIN) conn.unblock();
        if (events & (EPOLLERR | EPOLLHUP) && conn.is_held()) return conn.hang_up();
        // EPOLLERR and EPOLLHUP do not say what has happened and whether data came before it:
        // recv() and send() do.
        conn.throttle();
        if (events & ~EPOLLOUT && conn.wants_to_receive() && conn.receive()) offer(conn);
    }

    void offer(Connection& conn) {
        conn.throttle();  // another hook may have written to it
        if (!conn.takes_input()) return;
        conn.begin_offer();
        handler.on_read(conn);
        if (conn.is_too_long()) conn.fail(EMSGSIZE);
    }

    // Input that waits for us and not for the network.
    void offer_again(Connection* left_over) {
        for (Connection* conn = left_over; conn != nullptr; conn = conn->next_touched)
            if (conn->offers_again()) guarded(*conn, [this](Connection& c) { offer(c); });
    }

    // False when there is nobody who could be accepted now.
    bool accept_client(Listener& listener) {
        if (connections >= limits.max_connections) return false;
        Address peer;
        Fd fd{accept4(listener.fd.get(), peer.data(), &peer.length, SOCK_NONBLOCK | SOCK_CLOEXEC)};
        if (!fd && errno == EAGAIN) return false;
        if (!fd && may_accept_again(errno)) return true;
        if (!fd) {
            warn("accept");
            listener.rests = out_of_resources(errno) ? Listener::until_room : Listener::until_tick;
            return false;
        }
        survives([&] {
            Connection& conn = adopt(std::move(fd), peer, Phase::open);
            bool wanted = false;
            survives([&] { wanted = handler.on_accept(conn); });
            if (!wanted) conn.reject();
        });
        return true;
    }

    void ready_extra(int fd, std::uint32_t events) {
        // The other side is gone and nothing is left to read: that cannot be masked, and would be
        // reported for ever. A socket at its end also counts as readable, with 0 bytes.
        bool last = events & (EPOLLHUP | EPOLLERR) && (!(events & EPOLLIN) || unread(fd) <= 0);
        std::uint32_t serial = slots[fd].serial;
        bool fine = survives([&] { handler.on_fd(fd, events); });
        // An error may be over once it has been read: that of a datagram socket is.
        pollfd now{.fd = fd, .events = 0, .revents = 0};
        bool over = !fine || (last && poll(&now, 1, 0) == 1);
        if (over && slots[fd].serial == serial) forget(fd);
    }

    void woken() {
        std::uint64_t reasons = 0;
        if (read(wakeup.get(), &reasons, sizeof reasons) == -1) return;
        if (reasons >= stop_request) stop_requested = true;
        decltype(tasks) these;  // run where they are: a copy could fail
        {
            std::lock_guard lock(mutex);
            these.swap(tasks);
        }
        for (auto& task : these) survives(task);
    }

    // ---- Time ----------------------------------------------------------------------------------

    // The next tick is counted from when this one was due, so that ticks do not drift; those that
    // were missed are left out, so that they do not come in a burst.
    void tick() {
        next_tick += ((shared.now - next_tick) / limits.tick + 1) * limits.tick;
        for (Listener& listener : listeners) listener.rests = Listener::ready;
        each_conn([this](Connection& conn) {
            conn.count_acknowledged();
            if (conn.overdue(shared.now)) look_again();
            if (stage == Stage::draining) conn.touch();  // what it was sent may have arrived
        });
        survives([this] { handler.on_tick(); });
        shared.now = clock_now();  // it may have taken long
    }

    // Who is overdue may have sent what we have not read yet: the loop may have been held up. So a
    // later turn judges, one that has seen everything that was ready by now.
    void look_again() {
        if (as_of) return;
        as_of = shared.now;
        unseen = slots.size();
    }

    bool has_seen_all(int count) {
        if (!as_of || count == -1) return false;
        unseen -= std::min<std::size_t>(unseen, count);
        return count < batch_size || unseen == 0;  // epoll_wait(2): full batches go round
    }

    void judge() {
        bool everybody = stage == Stage::draining && *as_of >= stage_ends;
        each_conn([&](Connection& conn) {
            if (everybody || conn.overdue(*as_of)) conn.time_out();
        });
        as_of.reset();
    }

    void go_on_stopping() {
        if (stop_requested && stage == Stage::serving) {
            stage = Stage::noticed;
            stage_ends = shared.now + limits.notice;
            survives([this] { handler.on_stop(); });
        }
        if (shared.now < stage_ends) return;
        if (stage == Stage::noticed) begin_drain();
        else look_again();
    }

    // No new clients. Who is in the queue is served, and of everyone what has come by now.
    void begin_drain() {
        stage = Stage::draining;
        shared.draining = true;
        for (Listener& listener : listeners) {
            for (int i = 0; i < SOMAXCONN && accept_client(listener); ++i) {}
            forget(listener.fd.get());
        }
        listeners.clear();
        each_conn([](Connection& conn) { conn.begin_drain(); });
        shared.now = clock_now();  // all this may have taken long
        stage_ends = shared.now + limits.drain;
    }

    void shed() {
        for (bool beyond = shared.held > limits.max_memory; beyond;) {
            std::size_t kept = 0;  // by those who stay: settle() gives back the rest
            Connection* most = nullptr;
            each_conn([&](Connection& conn) {
                if (conn.phase() >= Phase::over) return;
                kept += conn.held_bytes();
                if (most == nullptr || conn.held_bytes() > most->held_bytes()) most = &conn;
            });
            beyond = kept > limits.max_memory;
            if (beyond) most->fail(ENOBUFS);
        }
    }

    // ---- The end of a turn ---------------------------------------------------------------------

    // Make the kernel agree with what the hooks have asked for. on_close() may ask for more, of
    // other connections: that is for the next turn.
    void settle() {
        Connection* next = std::exchange(shared.touched, nullptr);
        while (next != nullptr) {
            Connection& conn = *next;
            next = conn.next_touched;
            conn.advance();
            if (conn.phase() < Phase::over && !watch(conn)) conn.fail(errno);
            if (conn.phase() >= Phase::over) {
                destroy(conn);
                continue;
            }
            conn.untouch();
            if (conn.offers_again()) conn.touch();  // so that the next turn does
        }
        for (Listener& listener : listeners) {
            bool wanted = listener.rests == Listener::ready && connections < limits.max_connections;
            if (wanted == listener.watched) continue;
            int operation = wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL;
            if (tell(operation, listener.fd.get(), EPOLLIN)) listener.watched = wanted;
        }
    }

    void destroy(Connection& conn) {
        --connections;
        for (Listener& listener : listeners)
            if (listener.rests == Listener::until_room) listener.rests = Listener::ready;
        if (conn.phase() == Phase::over) {
            conn.enter(Phase::gone);
            survives([&] { handler.on_close(conn); });
        }
        conn.cut_off();
        if (has_copies) tell(EPOLL_CTL_DEL, conn.fd(), 0);
        Slot last_of_it = std::exchange(slots[conn.fd()], {});
    }  // here Conn::state ends, and may call whatever it likes

    // ---- What is watched -----------------------------------------------------------------------

    template <class Visit>
    void each_conn(Visit visit) {
        for (Slot& slot : slots)
            if (slot.conn) visit(*slot.conn);
    }

    Slot::Kind kind(int fd) const {
        return static_cast<std::size_t>(fd) < slots.size() ? slots[fd].kind : Slot::none;
    }

    Listener& listener_at(int fd) {
        return *std::ranges::find_if(listeners, [fd](auto& l) { return l.fd.get() == fd; });
    }

    Slot& install(int fd, Slot::Kind kind) {
        // Descriptors are small numbers, as the kernel gives out the lowest free one.
        if (fd >= std::ssize(slots)) slots.resize(fd + 1);
        slots[fd].serial = ++last_serial;
        slots[fd].kind = kind;
        return slots[fd];
    }

    Connection& adopt(Fd fd, const Address& peer, Phase phase) {
        auto conn = std::make_unique<Connection>(shared, std::move(fd), peer, phase);
        Slot& slot = install(conn->fd(), Slot::connection);
        conn->serial = slot.serial;
        slot.conn = std::move(conn);
        ++connections;
        slot.conn->touch();  // settle() will put it into the list
        return *slot.conn;
    }

    // False, with errno, if the kernel refuses.
    bool watch(int fd, Slot::Kind kind, std::uint32_t events) {
        install(fd, kind).events = static_cast<std::uint16_t>(events);
        if (tell(EPOLL_CTL_ADD, fd, events)) return true;
        slots[fd] = {};
        return false;
    }

    bool watch(Connection& conn) {
        std::uint8_t events = conn.interest();
        if (events == conn.told) return true;
        int operation = conn.told == Connection::nothing ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
        if (!tell(operation, conn.fd(), events)) return false;
        conn.told = events;
        return true;
    }

    bool tell(int operation, int fd, std::uint32_t events) {
        epoll_event event{.events = events, .data = {.u64 = name_of(slots[fd].serial, fd)}};
        return epoll_ctl(epoll.get(), operation, fd, &event) == 0;
    }

    void forget(int fd) {
        tell(EPOLL_CTL_DEL, fd, 0);  // fails if the owner has closed it: epoll knows that already
        slots[fd] = {};
    }

    // In two batches running, an event that fits nothing: a descriptor was closed, but a child made
    // by fork() has a copy of it. So it is in the list still, under a number that is not ours any
    // more to take it out by (epoll(7), Q6). Rather than have an EPOLL_CTL_DEL before every close()
    // in case that this may come, we begin a new list when it has.
    void list_anew() {
        Fd fresh{epoll_create1(EPOLL_CLOEXEC)};
        if (!fresh) return;
        epoll = std::move(fresh);
        has_copies = true;
        for (Listener& listener : listeners) listener.watched = false;  // settle() puts it back,
        each_conn([](Connection& conn) {  // and these
            conn.told = Connection::nothing;
            conn.touch();
        });
        for (std::size_t fd = 0; fd < slots.size(); ++fd)
            if (slots[fd].kind >= Slot::extra) tell(EPOLL_CTL_ADD, fd, slots[fd].events);
    }

    // From another thread or a signal handler: write() is async-signal-safe (signal-safety(7)). The
    // loop may be gone as soon as it knows: nothing of it is touched behind the call.
    void wake(std::uint64_t reason) {
        int saved = errno;
        // It can only fail when the counter is full, and then the loop is about to wake up anyway.
        [[maybe_unused]] ssize_t n = write(wakeup.get(), &reason, sizeof reason);
        errno = saved;
    }

    Handler& handler;
    Shared shared;
    const Limits& limits = shared.limits;
    Fd epoll{epoll_create1(EPOLL_CLOEXEC)};
    const Fd wakeup{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    const Fd timer{timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
    std::vector<Slot> slots;  // by descriptor
    std::list<Listener> listeners;  // a hook may add one while another accepts
    std::size_t connections = 0;
    std::uint32_t last_serial = 0;
    Time next_tick = shared.now + limits.tick;
    std::optional<Time> as_of;  // somebody was overdue then, unless we have not read all
    std::size_t unseen = 0;  // descriptors that may have been ready then
    Stage stage = Stage::serving;
    Time stage_ends = Time::max();
    bool stop_requested = false;
    int strangers = 0;  // events of this batch that fit nothing
    bool has_copies = false;  // another process has copies of our descriptors
    const pid_t process = getpid();
    std::mutex mutex;
    std::vector<std::function<void()>> tasks;  // guarded by mutex
};

// ---- Loop --------------------------------------------------------------------------------------

Loop::Loop(Handler& handler, Limits limits)
    : engine_(std::make_unique<Engine>(*this, handler, limits)) {}
Loop::~Loop() = default;

bool Loop::listen(Fd listener) {
    int fd = listener.get();
    int listens = 0;
    socklen_t length = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == -1) return false;
    bool stopped = engine_->stage == Engine::Stage::draining;
    errno = stopped ? ECANCELED : EINVAL;
    if (stopped || listens == 0) return false;
    int flags = fcntl(fd, F_GETFL);
    if (flags == -1 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == -1) return false;
    std::list<Engine::Listener> one;
    one.push_back({.fd = std::move(listener)});
    if (!engine_->watch(fd, Engine::Slot::listener, EPOLLIN)) return false;
    engine_->listeners.splice(engine_->listeners.end(), one);
    return true;
}

Conn* Loop::connect(const Address& to) {
    errno = ECANCELED;
    if (engine_->stage == Engine::Stage::draining) return nullptr;
    Fd fd{socket(to.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    if (!fd) return nullptr;
    int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    Connection& conn = engine_->adopt(std::move(fd), to, Phase::connecting);
    // EINTR: the attempt goes on all the same (connect(2)).
    if (::connect(conn.fd(), to.data(), to.length) == -1 && errno != EINPROGRESS && errno != EINTR)
        conn.fail(errno);
    return &conn;
}

bool Loop::add_fd(int fd, std::uint32_t events) {
    remove_fd(fd);
    errno = EEXIST;
    if (engine_->kind(fd) != Engine::Slot::none) return false;
    return fcntl(fd, F_GETFD) != -1 && engine_->watch(fd, Engine::Slot::extra, events);
}

void Loop::remove_fd(int fd) {
    if (engine_->kind(fd) == Engine::Slot::extra) engine_->forget(fd);
}

Conn* Loop::conn(std::uint64_t id) const {
    int fd = static_cast<int>(id & UINT32_MAX);
    bool known = engine_->kind(fd) == Engine::Slot::connection;
    return known && engine_->slots[fd].serial == id >> 32 ? engine_->slots[fd].conn.get() : nullptr;
}

std::size_t Loop::connections() const { return engine_->connections; }
bool Loop::stopping() const { return engine_->stage != Engine::Stage::serving; }

void Loop::run() {
    assert(getpid() == engine_->process && "a child made by fork() may not run its copy");
    while (!engine_->done() && turn()) {}
}

bool Loop::turn() {
    std::thread::id& owner = engine_->shared.owner;
    assert(owner == std::thread::id{} && "turn() and run() may not be called by a hook");
    struct UnderWay {
        std::thread::id& owner;
        ~UnderWay() { owner = {}; }
    } until_here{owner};
    owner = std::this_thread::get_id();
    return engine_->turn();
}

void Loop::stop() {
    // A child's copy of the wakeup would stop its parent.
    if (getpid() == engine_->process) engine_->wake(stop_request);
}

void Loop::post(std::function<void()> task) {
    std::lock_guard lock(engine_->mutex);  // the loop is not gone before it has got the task
    engine_->tasks.push_back(std::move(task));
    engine_->wake(1);
}
