// shim.so: counts and alters the socket calls of a server, from outside and without its source.
//
// How it works. A program that calls recv() does not contain recv(): it holds the name, and the
// dynamic linker looks for the first library that defines it. LD_PRELOAD puts one more library in
// front of all others, so the name is found here. Our recv() asks the linker for the next one,
// dlsym(RTLD_NEXT, "recv"), which is libc's, and decides what to do with it:
//
//     LD_PRELOAD=build/shim.so SHIM='recv:*:short=1 send:3:EINTR' build/04-epoll-lt
//
// The server is the same binary, in whatever language, and cannot tell. What it takes: a program
// that is linked dynamically and makes its calls by libc's names. Go makes system calls itself, and
// so does io_uring: there the counters stay at 0, and a test must look at them before it believes.
//
// SHIM holds words, separated by spaces; the first that fits a call decides about it.
//
//     call:which:what       call    accept recv send epoll_wait poll select epoll_ctl close,
//                                   or wait for epoll_wait, poll and select
//                           which   3 the third, 3-5 the third to the fifth, 3- the third and all
//                                   later ones, %3 every third, * every one; 3+ one call: the
//                                   third, or the first after it that may fail so
//                           what    an error by its name; short=N: at most N bytes; part=N: the
//                                   same, where no server takes it for a sign (see below)
//     sndbuf=N              each accepted socket gets a send buffer of N bytes (SO_SNDBUF), as on a
//                           machine with a small net.ipv4.tcp_wmem: it is full after that, and has
//                           room for a part before it has room for all
//     SIGUSR1               the signal is caught, without SA_RESTART: sent to a server, it
//                           interrupts the call that the server sleeps in (EINTR)
//
// accept4() counts as accept; read(), recvfrom(), recvmsg() and readv() as recv; write(), sendto(),
// sendmsg() and writev() as send; ppoll(), pselect(), epoll_pwait() as what they extend. Only
// stream sockets are counted and altered: log files, pipes and eventfds stay out of it.
//
// SHIM_COUNTERS names a file with the counters (struct Shared, below). It is mapped into memory, so
// a test reads it while the server runs. Children of the server count into the same file.
//
// What is injected could have come from the kernel, but for one thing, and nothing is lost by it:
//  - An error that the call's man page does not list is refused at the start, with exit status 125.
//  - EINTR is also given to calls that would not have slept. The kernel's TCP does not do that, but
//    recv(2) and send(2) allow it.
//  - Instead of a call that "fails" the real one is not made: the bytes, or the connection, wait.
//  - Fewer bytes means that fewer were asked for. The count is never a lie. But an edge-triggered
//    server may take it for the sign that there is nothing left (epoll(7), Q9), and the kernel
//    gives it no other reason to. Ours ask again, and are put to short=N; of others nobody can ask
//    that, and part=N leaves alone what they have registered with EPOLLET for the very thing.
//  - ECONNRESET, ETIMEDOUT, EPIPE, EHOSTUNREACH and ENETUNREACH come from recv() and send() when
//    the connection is dead. So it is, from then on: shutdown() is called for both directions. From
//    recv() the kernel gives out what has come before it gives out the error, so what is there then
//    is thrown away, as if it had never come.
//  - EPIPE brings SIGPIPE with it, unless the call says MSG_NOSIGNAL.
//  - close() is made and then reported as failed: on Linux the number is free in any case.
//  - EAGAIN only where the call would not have slept (O_NONBLOCK or MSG_DONTWAIT), and only where
//    the server will hear of it again. It says "wait for the next event", but there is no change,
//    so an edge-triggered registration stays silent for ever: the kernel never says EAGAIN while
//    there is something left. So not where the descriptor is watched with EPOLLET for the very
//    thing that was refused. Watching for it after the refusal (EPOLL_CTL_ADD or MOD) is fine, as
//    that reports what is ready by then: a server that arms EPOLLOUT upon EAGAIN gets its event.
//  - What is not legal for the one call at hand (ENOSPC for EPOLL_CTL_MOD, EAGAIN and part=N as
//    above) is not done: the real call is made and counted as `refused`.
//
// Threads and signal handlers may call all of it: after the start there are only atomics.

#undef _FORTIFY_SOURCE  // its inline recv() and ours would be two definitions

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <string_view>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

// ---- the calls, and the counters that a test reads ----------------------------------------------

enum Call { ACCEPT, RECV, SEND, EPOLL_WAIT, POLL, SELECT, EPOLL_CTL, CLOSE, CALLS };
constexpr const char* names[CALLS] = {"accept", "recv",   "send",      "epoll_wait",
                                      "poll",   "select", "epoll_ctl", "close"};

constexpr unsigned bit(Call call) { return 1u << call; }
constexpr unsigned waits = bit(EPOLL_WAIT) | bit(POLL) | bit(SELECT);

using Number = std::atomic<std::uint64_t>;
static_assert(Number::is_always_lock_free && sizeof(Number) == 8);

// tests/outside/shim.py knows this layout.
struct Counter {
    char name[16];
    Number calls;  // begun
    Number done;  // returned, so that calls - done is the number of threads inside
    Number amount;  // bytes moved, connections accepted, descriptors reported as ready
    Number interrupted;  // EINTR
    Number again;  // EAGAIN
    Number failed;  // any other error
    Number injected;  // of all these, those that were altered here: errors and short calls
    Number refused;  // not altered although a rule said so, because it would not have been legal
};

struct Shared {
    char format[16];
    Number pid;  // set when the rest is ready
    Number signals;  // SIGUSR1 caught
    Number fruitless;  // calls without progress in a row, up to now: 1,000 of them are a spin
    Number most_fruitless;  // the longest such row
    Counter counters[CALLS];
};

constinit Shared unnamed{};  // where the counters are when nobody wants to see them
Shared* shared = &unnamed;

// A byte, a connection or a sleep: the server gets on.
void progress() { shared->fruitless = 0; }

void no_progress() {
    std::uint64_t row = ++shared->fruitless;
    std::uint64_t most = shared->most_fruitless;
    while (row > most && !shared->most_fruitless.compare_exchange_weak(most, row)) {}
}

// ---- libc's own functions -----------------------------------------------------------------------

#define FUNCTIONS(f)                                                                            \
    f(accept4) f(recv) f(recvfrom) f(recvmsg) f(read) f(readv) f(send) f(sendto) f(sendmsg)     \
        f(write) f(writev) f(epoll_wait) f(epoll_pwait) f(epoll_ctl) f(poll) f(ppoll) f(select) \
            f(pselect) f(close)

struct Libc {
#define MEMBER(name) decltype(&::name) name = nullptr;
    FUNCTIONS(MEMBER)
};

// Found once. The first call may come from another library's start, before ours; there is one
// thread then.
const Libc& libc() {
    static constinit Libc found;
    if (!found.close) {
#define FIND(name) found.name = reinterpret_cast<decltype(&::name)>(dlsym(RTLD_NEXT, #name));
        FUNCTIONS(FIND)
    }
    return found;
}

// ---- rules --------------------------------------------------------------------------------------

struct Rule {
    Call call = ACCEPT;
    std::uint64_t first = 1, last = UINT64_MAX, every = 1;
    bool once = false;  // the first that is legal
    int error = 0;
    std::size_t most = SIZE_MAX;  // bytes, when there is no error
    bool no_sign = false;  // not where fewer bytes are a sign

    bool fits(Call c, std::uint64_t k) const {
        return c == call && k >= first && k <= last && k % every == 0;
    }
};

// constinit: nothing may be initialised again after start(), which other libraries can precede.
constinit Rule rules[64]{};
constinit std::atomic<bool> used_up[std::size(rules)]{};  // those that are for one call
std::size_t rule_count = 0;
int send_buffer = 0;  // bytes, for each accepted socket; 0 leaves it alone

struct Error {
    const char* name;
    int number;
    unsigned calls;  // that may fail with it: "Errors" in their man pages
};

constexpr unsigned moves = bit(RECV) | bit(SEND);
constexpr Error errors[] = {
    {"EINTR", EINTR, bit(ACCEPT) | moves | waits | bit(CLOSE)},
    {"EAGAIN", EAGAIN, bit(ACCEPT) | moves},
    {"ENOMEM", ENOMEM, bit(ACCEPT) | moves | bit(POLL) | bit(SELECT) | bit(EPOLL_CTL)},
    {"EINVAL", EINVAL, bit(ACCEPT) | waits},
    {"ENOBUFS", ENOBUFS, bit(ACCEPT) | bit(SEND)},
    {"EMFILE", EMFILE, bit(ACCEPT)},
    {"ENFILE", ENFILE, bit(ACCEPT)},
    {"ECONNABORTED", ECONNABORTED, bit(ACCEPT)},
    {"EPERM", EPERM, bit(ACCEPT)},
    {"EPROTO", EPROTO, bit(ACCEPT)},
    {"ENETDOWN", ENETDOWN, bit(ACCEPT)},
    {"ENETUNREACH", ENETUNREACH, bit(ACCEPT) | moves},
    {"EHOSTUNREACH", EHOSTUNREACH, bit(ACCEPT) | moves},
    {"ECONNRESET", ECONNRESET, moves},
    {"ETIMEDOUT", ETIMEDOUT, moves},
    {"EPIPE", EPIPE, bit(SEND)},
    {"ENOSPC", ENOSPC, bit(EPOLL_CTL)},
    {"EIO", EIO, bit(CLOSE)},
};

[[noreturn]] void bad_word(std::string_view word, const char* why) {
    dprintf(STDERR_FILENO, "shim: %.*s: %s\n", static_cast<int>(word.size()), word.data(), why);
    _exit(125);
}

// The part up to `end`, which is taken off `text` together with `end`.
std::string_view cut(std::string_view& text, char end) {
    std::size_t length = std::min(text.find(end), text.size());
    std::string_view part = text.substr(0, length);
    text.remove_prefix(std::min(length + 1, text.size()));
    return part;
}

std::uint64_t parse_number(std::string_view text, std::string_view word) {
    std::uint64_t number = 0;
    auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || stop != text.data() + text.size() || number == 0)
        bad_word(word, "not a number from 1 upwards");
    return number;
}

unsigned parse_calls(std::string_view text, std::string_view word) {
    if (text == "wait") return waits;
    for (int call = 0; call < CALLS; ++call)
        if (text == names[call]) return bit(static_cast<Call>(call));
    bad_word(word, "no such call");
}

// 3   3-5   3-   3+   %3   *
void parse_which(Rule& rule, std::string_view text, std::string_view word) {
    if (text == "*") return;
    if (text.starts_with('%')) {
        rule.every = parse_number(text.substr(1), word);
        return;
    }
    if (text.ends_with('+')) {
        rule.once = true;
        rule.first = parse_number(text.substr(0, text.size() - 1), word);
        return;
    }
    bool range = text.find('-') != text.npos;
    rule.first = rule.last = parse_number(cut(text, '-'), word);
    if (range) rule.last = text.empty() ? UINT64_MAX : parse_number(text, word);
}

void parse_what(Rule& rule, std::string_view text, unsigned calls, std::string_view word) {
    if (text.starts_with("short=") || text.starts_with("part=")) {
        if (calls & ~moves) bad_word(word, "only recv and send can be short");
        rule.no_sign = text.starts_with("part=");
        rule.most = parse_number(text.substr(text.find('=') + 1), word);
        return;
    }
    for (const Error& e : errors) {
        if (text != e.name) continue;
        // `wait:1:ENOMEM` is for poll and select: epoll_wait() never says so.
        if ((calls & e.calls) != calls) bad_word(word, "this call has no such error");
        rule.error = e.number;
        return;
    }
    bad_word(word, "neither short=N or part=N nor the name of an error");
}

void catch_signal(int) { ++shared->signals; }

// A handler alone changes nothing for a sleeping call. Without SA_RESTART the call ends with EINTR.
void catch_sigusr1() {
    struct sigaction action {};
    action.sa_handler = catch_signal;
    sigaction(SIGUSR1, &action, nullptr);
}

void parse_word(std::string_view word) {
    if (word == "SIGUSR1") return catch_sigusr1();
    std::string_view rest = word;
    if (word.starts_with("sndbuf=")) {
        send_buffer = static_cast<int>(parse_number(word.substr(word.find('=') + 1), word));
        return;
    }

    Rule rule{};
    unsigned calls = parse_calls(cut(rest, ':'), word);
    parse_which(rule, cut(rest, ':'), word);
    parse_what(rule, rest, calls, word);
    for (int call = 0; call < CALLS; ++call) {
        rule.call = static_cast<Call>(call);
        if (!(calls & bit(rule.call))) continue;
        if (rule_count == std::size(rules)) bad_word(word, "too many rules");
        rules[rule_count++] = rule;
    }
}

void map_counters(const char* path) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void* memory = MAP_FAILED;
    if (fd != -1 && ftruncate(fd, sizeof(Shared)) == 0)
        memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) bad_word(path, std::strerror(errno));
    libc().close(fd);
    shared = static_cast<Shared*>(memory);  // a new file is all zeros
}

[[gnu::constructor]] void start() {
    libc();
    if (const char* path = std::getenv("SHIM_COUNTERS")) map_counters(path);
    std::strcpy(shared->format, "shim 1");
    for (int call = 0; call < CALLS; ++call) std::strcpy(shared->counters[call].name, names[call]);

    const char* text = std::getenv("SHIM");
    std::string_view words = text ? text : "";
    while (!words.empty())
        if (std::string_view word = cut(words, ' '); !word.empty()) parse_word(word);
    shared->pid = static_cast<std::uint64_t>(getpid());
}

// ---- what is legal for the call at hand ---------------------------------------------------------

// What each descriptor was registered for with epoll_ctl(); those beyond count as edge-triggered.
constinit std::atomic<std::uint32_t> watched[1 << 16]{};

void remember(int fd, std::uint32_t events) {
    if (fd >= 0 && static_cast<std::size_t>(fd) < std::size(watched)) watched[fd] = events;
}

// Would the server wait for ever for an event that tells it to try again?
bool edge_would_be_lost(Call call, int fd) {
    std::uint32_t events = EPOLLET | EPOLLIN | EPOLLOUT;
    if (static_cast<std::size_t>(fd) < std::size(watched)) events = watched[fd];
    return (events & EPOLLET) && (events & (call == SEND ? EPOLLOUT : EPOLLIN));
}

// For reads and writes `detail` is their flags, for epoll_ctl() its operation.
bool is_legal(Call call, int fd, int detail, int error) {
    if (error == EAGAIN) {
        bool sleeps = !(fcntl(fd, F_GETFL) & O_NONBLOCK);
        if (call != ACCEPT && (detail & MSG_DONTWAIT)) sleeps = false;
        return !sleeps && !edge_would_be_lost(call, fd);
    }
    if (call != EPOLL_CTL) return true;
    return detail == EPOLL_CTL_ADD || (detail == EPOLL_CTL_MOD && error == ENOMEM);
}

// Errors that say that a connection is dead. tcp_write_err() gives up with one of the last three.
bool is_the_end(Call call, int error) {
    if (!(moves & bit(call))) return false;
    return error == ECONNRESET || error == EPIPE || error == ETIMEDOUT || error == EHOSTUNREACH ||
           error == ENETUNREACH;
}

void end_connection(Call call, int fd) {
    char lost[4096];
    while (call == RECV && libc().recv(fd, lost, sizeof lost, MSG_DONTWAIT) > 0) {}
    shutdown(fd, SHUT_RDWR);
}

bool is_stream(int fd) {
    int kept = errno;
    int type = 0;
    socklen_t length = sizeof type;
    bool yes = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
    errno = kept;
    return yes;
}

// ---- one call, from its beginning to its end ----------------------------------------------------

struct Attempt {
    Call call;
    int error = 0;  // to fail with
    std::size_t most = SIZE_MAX;  // bytes to ask for

    Attempt(Call call, int fd, int detail = 0);
    bool fails() const { return error != 0; }
    std::size_t shortened(std::size_t length);
    long fail();
    long end(long result);

    Counter& counter() { return shared->counters[call]; }
};

// Count the call, and look for the rule about it.
Attempt::Attempt(Call call, int fd, int detail) : call(call) {
    std::uint64_t k = ++counter().calls;
    auto rules_end = rules + rule_count;
    auto rule = std::find_if(rules, rules_end, [&](const Rule& r) { return r.fits(call, k); });
    if (rule == rules_end) return;
    bool legal = rule->error ? is_legal(call, fd, detail, rule->error)
                             : !rule->no_sign || !edge_would_be_lost(call, fd);
    if (!legal) {
        ++counter().refused;
        return;
    }
    if (rule->once && used_up[rule - rules].exchange(true)) return;
    error = rule->error;
    most = rule->most;
    if (error) ++counter().injected;
    if (is_the_end(call, error)) end_connection(call, fd);
    if (error == EPIPE && !(detail & MSG_NOSIGNAL)) raise(SIGPIPE);
}

std::size_t Attempt::shortened(std::size_t length) {
    if (length <= most) return length;
    ++counter().injected;
    return most;
}

// The result of the call when it is not made.
long Attempt::fail() {
    errno = error;
    return end(-1);
}

// Count the result and pass it on. An interrupted call says nothing about progress.
long Attempt::end(long result) {
    ++counter().done;
    if (result == -1) {
        if (errno == EINTR) {
            ++counter().interrupted;
            return result;
        }
        ++(errno == EAGAIN ? counter().again : counter().failed);
        no_progress();
        return result;
    }
    bool moved = result > 0 && !(waits & bit(call)) && call != EPOLL_CTL;
    if (call == ACCEPT) counter().amount += 1;
    else if (call != CLOSE && call != EPOLL_CTL) counter().amount += result;
    if (moved || call == ACCEPT || call == CLOSE) progress();
    else no_progress();
    return result;
}

// A call that waits for events. One that has slept until its timeout is no spin.
template <class Real>
int wait_for(Call call, bool may_sleep, Real real) {
    Attempt attempt{call, -1};
    if (attempt.fails()) return attempt.fail();
    int ready = attempt.end(real());
    if (ready == 0 && may_sleep) progress();
    if (ready == -1 && errno == EINTR) {
        // ThreadSanitizer runs a handler in the next call that it knows. select() it does not.
        libc().poll(nullptr, 0, 0);
        errno = EINTR;
    }
    return ready;
}

// A read or write of `length` bytes, real(length). Other files than sockets are left alone, but to
// empty an eventfd is progress. Peeking is none, and is not counted.
template <class Real>
ssize_t move(Call call, int fd, std::size_t length, int flags, Real real) {
    if (!is_stream(fd) || (call == RECV && (flags & MSG_PEEK))) {
        ssize_t n = real(length);
        if (n > 0 && fd > STDERR_FILENO && !(flags & MSG_PEEK)) progress();
        return n;
    }
    Attempt attempt{call, fd, flags};
    if (attempt.fails()) return attempt.fail();
    return attempt.end(real(attempt.shortened(length)));
}

// The same with several buffers. A short call gets the first of them that is not empty, or a part.
template <class Real>
ssize_t move_vector(Call call, int fd, const iovec* parts, std::size_t count, int flags,
                    Real real) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < count; ++i) length += parts[i].iov_len;
    return move(call, fd, length, flags, [&](std::size_t allowed) {
        if (allowed == length) return real(parts, count);
        while (parts->iov_len == 0) ++parts;
        iovec part{parts->iov_base, std::min(parts->iov_len, allowed)};
        return real(&part, std::size_t{1});
    });
}

}  // namespace

// ---- the names that the server finds here instead of libc's -------------------------------------

#pragma GCC visibility push(default)
extern "C" {

int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
    Attempt attempt{ACCEPT, fd};
    if (attempt.fails()) return attempt.fail();
    int accepted = libc().accept4(fd, address, length, flags);
    if (accepted != -1 && send_buffer)
        setsockopt(accepted, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
    return attempt.end(accepted);
}

int accept(int fd, sockaddr* address, socklen_t* length) { return accept4(fd, address, length, 0); }

ssize_t recv(int fd, void* buffer, std::size_t length, int flags) {
    return move(RECV, fd, length, flags,
                [&](std::size_t n) { return libc().recv(fd, buffer, n, flags); });
}

ssize_t recvfrom(int fd, void* buffer, std::size_t length, int flags, sockaddr* from,
                 socklen_t* from_length) {
    return move(RECV, fd, length, flags, [&](std::size_t n) {
        return libc().recvfrom(fd, buffer, n, flags, from, from_length);
    });
}

ssize_t recvmsg(int fd, msghdr* message, int flags) {
    auto real = [&](const iovec* parts, std::size_t count) {
        msghdr shorter = *message;
        shorter.msg_iov = const_cast<iovec*>(parts);
        shorter.msg_iovlen = count;
        ssize_t n = libc().recvmsg(fd, &shorter, flags);
        shorter.msg_iov = message->msg_iov;
        shorter.msg_iovlen = message->msg_iovlen;
        *message = shorter;  // with the flags and lengths that came back
        return n;
    };
    return move_vector(RECV, fd, message->msg_iov, message->msg_iovlen, flags, real);
}

ssize_t read(int fd, void* buffer, std::size_t length) {
    return move(RECV, fd, length, 0, [&](std::size_t n) { return libc().read(fd, buffer, n); });
}

ssize_t readv(int fd, const iovec* parts, int count) {
    return move_vector(RECV, fd, parts, count, 0, [&](const iovec* some, std::size_t n) {
        return libc().readv(fd, some, static_cast<int>(n));
    });
}

ssize_t send(int fd, const void* bytes, std::size_t length, int flags) {
    return move(SEND, fd, length, flags,
                [&](std::size_t n) { return libc().send(fd, bytes, n, flags); });
}

ssize_t sendto(int fd, const void* bytes, std::size_t length, int flags, const sockaddr* to,
               socklen_t to_length) {
    return move(SEND, fd, length, flags,
                [&](std::size_t n) { return libc().sendto(fd, bytes, n, flags, to, to_length); });
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
    auto real = [&](const iovec* parts, std::size_t count) {
        msghdr shorter = *message;
        shorter.msg_iov = const_cast<iovec*>(parts);
        shorter.msg_iovlen = count;
        return libc().sendmsg(fd, &shorter, flags);
    };
    return move_vector(SEND, fd, message->msg_iov, message->msg_iovlen, flags, real);
}

ssize_t write(int fd, const void* bytes, std::size_t length) {
    return move(SEND, fd, length, 0, [&](std::size_t n) { return libc().write(fd, bytes, n); });
}

ssize_t writev(int fd, const iovec* parts, int count) {
    return move_vector(SEND, fd, parts, count, 0, [&](const iovec* some, std::size_t n) {
        return libc().writev(fd, some, static_cast<int>(n));
    });
}

int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) noexcept {
    Attempt attempt{EPOLL_CTL, fd, operation};
    if (attempt.fails()) return attempt.fail();
    int result = attempt.end(libc().epoll_ctl(epoll, operation, fd, event));
    if (result == 0) remember(fd, operation == EPOLL_CTL_DEL ? 0 : event->events);
    return result;
}

int epoll_wait(int epoll, epoll_event* events, int size, int timeout) {
    return wait_for(EPOLL_WAIT, timeout != 0,
                    [&] { return libc().epoll_wait(epoll, events, size, timeout); });
}

int epoll_pwait(int epoll, epoll_event* events, int size, int timeout, const sigset_t* mask) {
    return wait_for(EPOLL_WAIT, timeout != 0,
                    [&] { return libc().epoll_pwait(epoll, events, size, timeout, mask); });
}

// That is no wait for clients. (noinline: glibc declares that poll() only writes to its array, and
// so g++ would warn that we read it.)
[[gnu::noinline]] static bool asks_for_room_on_stderr(pollfd* fds, nfds_t count) {
    return count == 1 && fds->fd == STDERR_FILENO;
}

int poll(pollfd* fds, nfds_t count, int timeout) {
    if (asks_for_room_on_stderr(fds, count)) return libc().poll(fds, count, timeout);
    return wait_for(POLL, timeout != 0, [&] { return libc().poll(fds, count, timeout); });
}

int ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
    bool may_sleep = !timeout || timeout->tv_sec != 0 || timeout->tv_nsec != 0;
    return wait_for(POLL, may_sleep, [&] { return libc().ppoll(fds, count, timeout, mask); });
}

int select(int count, fd_set* in, fd_set* out, fd_set* other, timeval* timeout) {
    // Asked before, because Linux writes the time that was left into it.
    bool may_sleep = !timeout || timeout->tv_sec != 0 || timeout->tv_usec != 0;
    return wait_for(SELECT, may_sleep,
                    [&] { return libc().select(count, in, out, other, timeout); });
}

int pselect(int count, fd_set* in, fd_set* out, fd_set* other, const timespec* timeout,
            const sigset_t* mask) {
    bool may_sleep = !timeout || timeout->tv_sec != 0 || timeout->tv_nsec != 0;
    return wait_for(SELECT, may_sleep,
                    [&] { return libc().pselect(count, in, out, other, timeout, mask); });
}

int close(int fd) {
    // That a number is closed twice is worth knowing, so EBADF is counted, whatever it was.
    bool counts = is_stream(fd) || fcntl(fd, F_GETFD) == -1;
    remember(fd, 0);
    if (!counts) return libc().close(fd);

    Attempt attempt{CLOSE, fd};
    int result = libc().close(fd);
    return result == 0 && attempt.fails() ? attempt.fail() : attempt.end(result);
}

// What _FORTIFY_SOURCE makes of the same calls: the size of the buffer is known and is checked.

ssize_t __recv_chk(int fd, void* buffer, std::size_t length, std::size_t size, int flags) {
    if (length > size) std::abort();
    return recv(fd, buffer, length, flags);
}

ssize_t __recvfrom_chk(int fd, void* buffer, std::size_t length, std::size_t size, int flags,
                       sockaddr* from, socklen_t* from_length) {
    if (length > size) std::abort();
    return recvfrom(fd, buffer, length, flags, from, from_length);
}

ssize_t __read_chk(int fd, void* buffer, std::size_t length, std::size_t size) {
    if (length > size) std::abort();
    return read(fd, buffer, length);
}

int __poll_chk(pollfd* fds, nfds_t count, int timeout, std::size_t size) {
    if (count > size / sizeof *fds) std::abort();
    return poll(fds, count, timeout);
}

}  // extern "C"
#pragma GCC visibility pop
