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
//     dispatch  receive what has come, call the handler, send what it has written
//     settle    tell epoll what has changed, close what was closed
//
// Handlers ask, the loop acts. write() stores, close() and abort() mark, and only settle destroys.
// So every function here, but for run() and turn(), may be called from every hook, for any
// connection, its own included.
//
// Everything belongs to the thread that calls run(), except stop() and post(). Nothing blocks.
// An exception that leaves a hook is said on stderr and ends the connection that it was called for,
// or removes the descriptor.

#pragma once

#include "common/address.h"
#include "common/fd.h"

#include <any>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

class Conn;
class Loop;

// What a program does with its connections. A Conn& is valid until its on_close() has returned.
class Handler {
public:
    virtual ~Handler() = default;

    // A client has connected: the first call for `conn`. False, or an exception, ends it without an
    // on_close(), and without what was written. (For a last word: write(), close() and true.)
    virtual bool on_accept(Conn&) { return true; }

    // A connection that Loop::connect() began is up.
    virtual void on_connect(Conn&) {}

    // Bytes have come. Take whole messages from the front of conn.input() with conn.consume(). What
    // is left stays, and is offered again: in the next turn if this call took something (there may
    // be another message), otherwise once more bytes have come. When the client has sent its end,
    // its connection ends by itself once all answers have gone; hold() puts that off.
    virtual void on_read(Conn& conn) = 0;

    // The connection is over: the last call for it, exactly once for every one that was accepted or
    // begun by connect(), whoever ended it. conn.error() says why, conn.input() what was not taken:
    // half a message, if its sender has gone.
    virtual void on_close(Conn&) {}

    // A descriptor given to add_fd() is ready. `events` is epoll's: EPOLLIN, EPOLLOUT, EPOLLHUP ...
    virtual void on_fd(int /*fd*/, std::uint32_t /*events*/) {}

    // Every Limits::tick, however busy the loop is. Ticks that were missed are not made up for.
    virtual void on_tick() {}

    // stop() was called, and Loop::stopping() is true from now on. Clients are still accepted for
    // as long as Limits::notice says: time to tell them, or a load balancer, to go elsewhere.
    virtual void on_stop() {}
};

struct Limits {
    using ms = std::chrono::milliseconds;

    // All are more than 0, but for low_water, idle, grace and notice, and no time is more than a
    // year. A program that asks for anything else is ended by the constructor.

    // Bytes per connection that may wait to be sent. From high_water on, no input of that client is
    // read or offered until at most low_water are left. One write() may go beyond.
    std::size_t high_water = 1 << 20;
    std::size_t low_water = 256 << 10;

    std::size_t max_input = (1 << 20) + 4096;  // bytes of one message; EMSGSIZE beyond
    std::size_t max_connections = 1'000'000;  // others wait in the accept queue; no connect() does

    // Bytes that all connections together may hold. Beyond, the one that holds the most is ended
    // with ENOBUFS, and then the next.
    std::size_t max_memory = std::size_t{1} << 30;

    // Deadlines are looked at once a tick, and end a connection with ETIMEDOUT, if it is silent
    // when everything that had come by then was read. What its client has acknowledged in that
    // time counts as sent.
    ms tick{1000};
    ms idle{0};  // without a message taken or a byte sent; 0: for ever
    ms connect{10'000};  // for a connect() to succeed or fail
    ms drain{5'000};  // for a closing connection without a byte sent, and for all after stop()
    ms linger{30'000};  // for a closed connection whose peer goes on sending, in all
    ms grace{1'000};  // after stop(), for a message that has begun, or the first of a new client
    ms notice{0};  // from on_stop() until the listeners are closed
};

// A connection, accepted or begun by Loop::connect(). The loop creates and destroys it.
class Conn {
public:
    // What was received and is not consumed yet. Empty while the loop holds back input: after a
    // consume() with Limits::high_water or more unsent, after hold(), close() and abort(). So a
    // loop over the messages in it ends by itself. Valid until consume() or until the hook returns.
    virtual std::string_view input() const = 0;
    virtual void consume(std::size_t n) = 0;

    // Send `bytes`. What the kernel does not take is kept and sent later, in order. Never blocks
    // and never fails: if the connection turns out to be broken, on_close() will say so. Ignored
    // once close() was called.
    virtual void write(std::string_view bytes) = 0;
    virtual std::size_t unsent() const = 0;

    // An answer is being made elsewhere. Until release() the loop offers no input of this client,
    // and neither its idle deadline nor the end of its input closes the connection. A reset does,
    // at once: on_close() is the place to cancel that answer. One release() ends all holds.
    virtual void hold() = 0;
    virtual void release() = 0;

    // Close when all that was written has been sent. Input is thrown away from now on. on_close()
    // comes when the peer has closed too, or Limits::drain or linger is over.
    virtual void close() = 0;

    // Close in this turn. The peer sees a reset, so that a cut answer cannot look like a whole one.
    virtual void abort() = 0;

    // End it with ETIMEDOUT once so much time has passed, whatever it does until then, and though
    // it is held; 0: never.
    // Called again, it counts anew. For a message, say, that must be whole within a minute.
    virtual void deadline(std::chrono::milliseconds from_now) = 0;

    // Why it ended: 0 in good order, else an errno. From the network: ECONNRESET, EPIPE, ETIMEDOUT,
    // ECONNREFUSED. From here: ETIMEDOUT (a deadline), EMSGSIZE, ECONNABORTED (abort()), ECANCELED
    // (a hook has thrown; stop() before it was up), ENOMEM (for a write()), ENOBUFS (max_memory),
    // ENOSPC (epoll(7), max_user_watches).
    virtual int error() const = 0;

    virtual int fd() const = 0;
    virtual std::uint64_t id() const = 0;  // unique in its loop; descriptors are used again
    virtual std::string peer() const = 0;  // "127.0.0.1:9000", "?" if it has no such address
    virtual Loop& loop() const = 0;

    std::any state;  // for the handler: whatever it keeps per connection

    virtual ~Conn() = default;
};

class Loop {
public:
    // Throws std::system_error if the kernel has no descriptor.
    explicit Loop(Handler& handler, Limits limits = {});

    // Calls no hook: the handler, whose member a Loop often is, may have lost other members by now.
    // Connections are left only if run() has not returned; they are closed. A child that was made
    // by fork() may destroy its copy, which does nothing to its parent, and may not run it.
    ~Loop();

    // Serve those who connect to `listener`. False, with errno, if it does not listen (EINVAL), if
    // it cannot be watched, or after a stop(), as in connect().
    bool listen(Fd listener);

    // Begin a connection; parse_address() makes an Address. on_connect() follows, or on_close()
    // with the error. Writing to it may begin at once. nullptr, with errno and no further call,
    // when no socket could be made, or (ECANCELED) when the listeners are closed after a stop().
    Conn* connect(const Address& to);

    // Call on_fd() when `fd` is ready for `events` (EPOLLIN, EPOLLOUT); again, to change the
    // events. Level-triggered: what on_fd() leaves is reported again. Borrowed: close it after
    // remove_fd(), which is safe from any hook and does nothing if `fd` is unknown. If there is
    // EPOLLHUP or EPOLLERR with nothing left to read, and on_fd() has not changed that, it is
    // removed by itself, as it would be ready for ever. False, with errno: EPERM for a regular
    // file, EBADF, EEXIST for a descriptor of the loop's own.
    bool add_fd(int fd, std::uint32_t events);
    void remove_fd(int fd);

    // The connection with this id, or nullptr once its on_close() has returned. Those that are in
    // their on_close() are not counted any more.
    Conn* conn(std::uint64_t id) const;
    std::size_t connections() const;

    // Turn until stop(): then, after Limits::notice, accept who is already waiting, answer what was
    // received, send it, and close; at the latest after Limits::drain. turn() is one turn; false
    // when all is done.
    void run();
    bool turn();
    bool stopping() const;  // on_stop() was called

    // From any thread; stop() also from a signal handler. It does nothing in a child made by
    // fork(), which has its parent's handlers until execve(). A task runs on the loop's thread, in
    // the order of the calls; one posted in the last turn or later is destroyed with the loop.
    void stop();
    void post(std::function<void()> task);

private:
    class Engine;  // evloop.cpp
    std::unique_ptr<Engine> engine_;
};
