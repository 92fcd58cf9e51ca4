// streams.h: the program's own stdin, stdout and stderr.
//
// They fail as a client's socket does. The reader of a log may be gone (SIGPIPE) or asleep (a full
// pipe, and write() waits), the disk full, the file as long as it may become (SIGXFSZ). None of it
// may end a server or stop it: a line on stderr that cannot be written at once is lost.

#pragma once

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <iterator>
#include <mutex>
#include <poll.h>
#include <string_view>
#include <unistd.h>

// Take those of the numbers 0, 1 and 2 that were closed when we started (`2>&-`). Otherwise the
// first sockets would get them, and a client would receive our lines about the others. The kernel
// gives out the lowest free number (open(2)). Read-only: a write there fails with EBADF, as before.
inline void keep_standard_numbers() {
    int fd = open("/dev/null", O_RDONLY);
    while (fd != -1 && fd <= STDERR_FILENO) fd = open("/dev/null", O_RDONLY);
    if (fd != -1) close(fd);
}

// Write all of `text`. False, with errno, when that fails. No signal ends the process then: SIGPIPE
// and SIGXFSZ go to the thread that writes (pipe(7), setrlimit(2)), so we block them and take away
// the one that has come.
inline bool write_all(int fd, std::string_view text) {
    sigset_t deadly, before;
    sigemptyset(&deadly);
    sigaddset(&deadly, SIGPIPE);
    sigaddset(&deadly, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &deadly, &before);

    ssize_t n = 0;
    while (!text.empty() && n != -1) {
        n = write(fd, text.data(), text.size());
        if (n > 0) text.remove_prefix(n);
        if (n == -1 && errno == EINTR) n = 0;
    }

    int error = errno;
    timespec at_once{};
    if (n == -1 && (error == EPIPE || error == EFBIG)) sigtimedwait(&deadly, nullptr, &at_once);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    errno = error;
    return n != -1;
}

// Lines are of one kind if they have the same format and report the same error. A client that
// misbehaves a thousand times a second causes lines of one kind. Most are only counted: it can
// neither fill the disk nor hide the lines of another kind.
struct Kind {
    const char* format = nullptr;
    std::time_t since = 0;  // seconds; when the present minute began
    unsigned long unsaid = 0;  // lines since the last one that was said
    int error = 0;
    int said = 0;  // lines in this minute

    bool is_due(int lines_a_minute);
};

inline bool Kind::is_due(int lines_a_minute) {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - since >= 60) {
        since = now.tv_sec;
        said = 0;
    }
    bool due = said < lines_a_minute;
    if (due) ++said;
    else ++unsaid;
    return due;
}

inline Kind& kind_of(const char* format, int error) {
    static Kind kinds[32];  // more than any program here has; the last is for all others
    for (Kind& kind : kinds) {
        if (kind.format == nullptr) kind = {.format = format, .error = error};
        if (kind.format == format && kind.error == error) return kind;
    }
    return kinds[std::size(kinds) - 1];
}

// Write `text` as a line on stderr, or lose it. It allocates nothing: there may be no memory.
inline void say_line(const char* text, Kind& kind, int lines_a_minute) {
    if (!kind.is_due(lines_a_minute)) return;
    char line[1100];
    int length = kind.unsaid == 0 ? std::snprintf(line, sizeof line, "%s\n", text)
                                  : std::snprintf(line, sizeof line, "%s (and %lu more like it)\n",
                                                  text, kind.unsaid);
    kind.unsaid = 0;

    // A pipe that has room at all has room for PIPE_BUF bytes, 4,096 (pipe(7)): this does not wait.
    pollfd room{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (poll(&room, 1, 0) == 1 && (room.revents & POLLOUT))
        write_all(STDERR_FILENO, {line, static_cast<std::size_t>(length)});
}

// Held by the thread that says something. Two that find room for one line would write two.
inline std::mutex stderr_mutex;

// Say a line on stderr, from any thread. `format` is a literal as for printf(), without the "\n".
// Twenty lines of a kind are said in a minute. The next one tells how many more there were.
[[gnu::format(printf, 1, 2)]] inline void say(const char* format, ...) {
    char text[1000];
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    std::lock_guard lock{stderr_mutex};
    say_line(text, kind_of(format, 0), 20);
}

// Say on stderr why the system call `what` has failed (errno, which is kept), once in a minute: a
// server that cannot accept() may be told so a million times a second.
inline void warn(const char* what) {
    int error = errno;
    char text[1000];
    std::snprintf(text, sizeof text, "%s: %s", what, std::strerror(error));
    std::lock_guard lock{stderr_mutex};
    say_line(text, kind_of(what, error), 1);
    errno = error;
}
