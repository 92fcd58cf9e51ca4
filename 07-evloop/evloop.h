// evloop.h: a small event loop on epoll(7). One thread, many connections.
//
//     struct Echo : Handler {
//         void on_read(Conn& conn) override {
//             conn.write(conn.input());
//             conn.consume(conn.input().size());
//         }
//     };
//
//     Echo echo;
//     Loop loop(echo);
//     loop.listen(listen_on(options));
//     loop.run();
//
// A turn of the loop has three steps:
//
//     wait      sleep in epoll_wait() until something is ready, or the next tick is due
//     dispatch  receive what has come and call the handler
//     settle    send what the handler has written, close what it has closed
//
// Handlers ask, the loop acts. write() stores, close() and abort() mark, and only settle destroys.
// So every function here, but for run() and turn(), may be called from every hook, for any
// connection, its own included.
//
// Everything belongs to the thread that calls run(), except stop() and post(). Nothing blocks.
// An exception that leaves a hook is said on stderr and ends the connection that it was called for.

#pragma once

#include "buffer.h"
#include "common/address.h"
#include "common/fd.h"

#include <any>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

class Conn;
class Loop;

// What a program does with its connections. A Conn& is valid until its on_close() has returned.
class Handler {
public:
    virtual ~Handler() = default;

    // A client has connected: the first call for `conn`. False closes it, without an on_close().
    virtual bool on_accept(Conn&) { return true; }

    // A connection that Loop::connect() began is up.
    virtual void on_connect(Conn&) {}

    // Bytes have come. Take whole messages from the front of conn.input() with conn.consume(). What
    // is left stays, and is offered again: in the next turn if this call took something (there may
    // be another message), otherwise once more bytes have come.
    virtual void on_read(Conn& conn) = 0;

    // The connection is over: the last call for it, exactly once for every one that was accepted or
    // begun by connect(), whoever ended it. conn.error() says why.
    virtual void on_close(Conn&) {}

    // A descriptor given to add_fd() is ready. `events` is epoll's: EPOLLIN, EPOLLOUT, EPOLLHUP ...
    virtual void on_fd(int /*fd*/, std::uint32_t /*events*/) {}

    // Every Limits::tick, however busy the loop is. Ticks that were missed are not made up for.
    virtual void on_tick() {}
};

struct Limits {
    using ms = std::chrono::milliseconds;

    // Bytes per connection that may wait to be sent. From high_water on, no input of that client is
    // read or offered until at most low_water are left. One write() may go beyond.
    std::size_t high_water = 1 << 20;
    std::size_t low_water = 256 << 10;

    std::size_t max_input = (1 << 20) + 4096;  // bytes of one message; EMSGSIZE beyond
    std::size_t max_connections = 1'000'000;  // others wait in the accept queue

    // Deadlines are looked at once a tick, and end a connection with ETIMEDOUT. At most a year.
    ms tick{1000};
    ms idle{0};  // without a message taken or a byte sent; 0: for ever
    ms connect{10'000};  // for a connect() to succeed or fail
    ms drain{5'000};  // for a closing connection without progress, and for all after stop()
};

// What epoll watches. Owns its descriptor, and is the identity of it: the number may be used again,
// the address of this object is in the kernel's interest list.
class Source {
public:
    Source(Loop& loop, Fd fd) : loop_(loop), fd_(std::move(fd)) {}
    virtual ~Source() = default;
    Source(Source&&) = delete;

    int fd() const { return fd_.get(); }

protected:
    friend class Loop;
    virtual void on_ready(std::uint32_t events) = 0;
    virtual void give_up() {}  // a hook of it has thrown

    Loop& loop_;
    Fd fd_;
    std::uint32_t interest_ = 0;  // what the kernel was last told; 0: not in its list
    std::unique_ptr<Source> next_;
};

// A connection, accepted or begun by Loop::connect(). The loop creates and destroys it.
class Conn : public Source {
public:
    // What was received and is not consumed yet. Empty while the loop holds back input: after a
    // consume() with more unsent than Limits::high_water, after hold() and after close(). So a loop
    // over the messages in it ends by itself. Valid until consume() or until the hook returns.
    std::string_view input() const { return takes_input() ? in_.view() : std::string_view{}; }
    void consume(std::size_t n);

    // Send `bytes`. What the kernel does not take is kept and sent later, in order. Never blocks
    // and never fails: if the connection turns out to be broken, on_close() will say so. Ignored
    // once close() was called.
    void write(std::string_view bytes);
    std::size_t unsent() const { return out_.size(); }

    // An answer is being made elsewhere. Until release() the loop offers no input of this client,
    // and neither its idle deadline nor the end of its input closes the connection.
    void hold();
    void release();

    // Close when all that was written has been sent. Input is thrown away from now on.
    void close();

    // Close in this turn. If something is unsent the peer sees a reset, not a premature end.
    void abort() { fail(ECONNABORTED); }

    // Why it ended: 0 in good order, else an errno. From the network: ECONNRESET, EPIPE, ETIMEDOUT,
    // ECONNREFUSED. From here: ETIMEDOUT (a deadline), EMSGSIZE, ECONNABORTED (abort()), ECANCELED
    // (a hook has thrown; stop() before it was up; the loop is destroyed), ENOMEM (for a write()),
    // ENOSPC (epoll(7), max_user_watches).
    int error() const { return error_; }

    std::uint64_t id() const { return id_; }  // unique in its loop; descriptors are used again
    std::string peer() const { return to_string(peer_); }
    Loop& loop() { return loop_; }

    std::any state;  // for the handler: whatever it keeps per connection

private:
    friend class Loop;
    Conn(Loop& loop, Fd fd, const Address& peer, std::uint64_t id);

    void on_ready(std::uint32_t events) override;
    void give_up() override { fail(ECANCELED); }

    bool takes_input() const { return !held_ && !paused_ && !closing_; }
    bool offers_again() const;
    std::uint32_t interest() const;
    bool overdue() const;
    void fail(int error);
    void lost(int error);

    void finish_connect();
    void receive();
    void offer();
    void offer_again();
    std::size_t send_some(std::string_view bytes);
    void settle();
    bool safe_to_close() const;
    void tidy();
    void move_input(Buffer to, std::size_t capacity);

    Buffer in_;  // received, not consumed
    Buffer out_;  // written, not sent
    std::uint64_t id_;
    std::chrono::milliseconds last_progress_{};  // a message taken, bytes sent
    Address peer_;
    int error_ = 0;
    bool accepted_ = false;  // on_close() is owed
    bool connecting_ = false;  // connect() has not finished
    bool more_ = false;  // the handler may find another message in in_
    bool held_ = false;  // between hold() and release()
    bool paused_ = false;  // between the high-water mark and the low one
    bool eof_ = false;  // the peer sends no more
    bool drained_ = false;  // stop(): what had come by then is read
    bool broken_ = false;  // the connection is lost: nothing more can be sent
    bool closing_ = false;  // over once out_ is empty
    bool shut_ = false;  // our FIN is on its way; we wait for that of the peer
    bool progressed_ = true;  // in this turn
    bool dead_ = false;  // the next settle destroys it
    bool touched_ = false;  // is in Loop::touched_
};

class Loop {
public:
    // `handler` must outlive the loop. Throws std::system_error if the kernel has no descriptor.
    explicit Loop(Handler& handler, Limits limits = {});
    ~Loop();  // connections that are left are closed; on_close() is called for each

    // Serve those who connect to `listener`. False, with errno, if it cannot be watched.
    bool listen(Fd listener);

    // Begin a connection. on_connect() follows, or on_close() with the error. Writing to it may
    // begin at once. nullptr, with errno and no further call, when no socket could be made.
    Conn* connect(const Address& to);

    // Call on_fd() when `fd` is ready for `events` (EPOLLIN, EPOLLOUT); again, to change the
    // events. Level-triggered: what on_fd() leaves is reported again. Borrowed: close it after
    // remove_fd(), which is safe from any hook and does nothing if `fd` is unknown. (The other way
    // round does no harm only if no copy of it is open anywhere: epoll(7), Q6.) If there is
    // EPOLLHUP or EPOLLERR with nothing left to read, and on_fd() has not changed that, it is
    // removed by itself, as it would be ready for ever. False, with errno: EPERM for a regular
    // file, EBADF, EEXIST for a descriptor of the loop's own.
    bool add_fd(int fd, std::uint32_t events);
    void remove_fd(int fd);

    // The connection with this descriptor, or nullptr.
    Conn* conn(int fd) const;
    std::size_t connections() const { return connections_; }

    // Turn until stop(): then accept who is already waiting, answer what was received, send it,
    // and close; at the latest after Limits::drain. turn() is one turn; false when all is done.
    void run();
    bool turn();

    // From any thread; stop() also from a signal handler. A task runs on the loop's thread, in the
    // order of the calls; one posted in the last turn or later is destroyed with the loop.
    void stop();
    void post(std::function<void()> task);

private:
    friend class Conn;
    struct Listener;
    struct Extra;
    struct Wakeup;
    using Time = std::chrono::milliseconds;  // on CLOCK_MONOTONIC

    bool watch(std::unique_ptr<Source> source, std::uint32_t events);
    Source& install(std::unique_ptr<Source> source);
    void retire(int fd);
    Source* at(int fd) const;
    bool set_interest(Source& source, std::uint32_t events);
    template <class Visit>
    void each_conn(Visit visit);

    Conn& adopt(Fd fd, const Address& peer);
    void touch(Conn& conn);
    void destroy(Conn& conn);
    Buffer take(std::vector<Buffer>& pool);
    void recycle(Buffer buffer);

    void dispatch();
    int timeout() const;
    bool accept_client(int listener);
    void wake();
    void run_tasks();
    void tick();
    void begin_stop();
    void settle();
    void settle(Conn& conn);

    Handler& handler_;
    const Limits limits_;
    Fd epoll_;
    int wakeup_ = -1;  // an eventfd, owned by its Source
    std::vector<std::unique_ptr<Source>> sources_;  // by descriptor
    std::unique_ptr<Source> retired_;  // a list: destroyed at the end of the turn
    std::vector<int> listeners_;
    std::vector<Conn*> touched_;  // what the next settle looks at
    std::vector<Conn*> settling_;  // what this one looks at
    std::vector<Buffer> chunks_;  // empty buffers, for the next who needs one: large ones
    std::vector<Buffer> spares_;  // and others
    std::size_t connections_ = 0;
    std::uint64_t last_id_ = 0;
    Time now_{}, next_tick_{}, stop_deadline_ = Time::max();
    bool accepting_ = true;  // false: no descriptor was free when we last tried
    bool stopping_ = false;

    std::atomic<bool> stop_requested_ = false;
    std::mutex mutex_;
    std::vector<std::function<void()>> tasks_;  // guarded by mutex_
};
