// 07-evloop: the loop has become a library. What is left here is the protocol.
//
// New here:    mechanism apart from protocol: Handler says what a server does, Conn with what, Loop
//              when. Frames, extra descriptors (a worker's answers, signals), a tick, a graceful
//              stop.
// Still wrong: what one machine and epoll cannot do: epoll takes no disk file, a callback that
//              computes holds up its thread's clients, and one kernel has only so many descriptors.
//
// Build: g++ -std=c++20 -O2 -I. 07-evloop/server.cpp 07-evloop/evloop.cpp -o server -pthread

#include "common/net.h"
#include "evloop.h"
#include "frame.h"
#include "worker.h"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <system_error>
#include <thread>

// A payload that begins "sleep 500" is work for 500 ms, at most 10 s. Any other is none: 0.
int job_length(std::string_view payload) {
    constexpr std::string_view prefix = "sleep ";
    int ms = 0;
    if (payload.starts_with(prefix))
        std::from_chars(payload.data() + prefix.size(), payload.data() + payload.size(), ms);
    return std::clamp(ms, 0, 10'000);
}

sigset_t stop_signal_set() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    return signals;
}

// Echoes frames. One per thread; nothing is shared between two of them.
class EchoServer : public Handler {
public:
    EchoServer(const Limits& limits, Fd listener) : loop_(*this, limits) {
        check(loop_.listen(std::move(listener)) ? 0 : -1, "listen");
        check(loop_.add_fd(worker_.fd(), EPOLLIN) ? 0 : -1, "add_fd");
    }

    Loop& loop() { return loop_; }

    // Signals come as an event of a descriptor like any other.
    void watch_signals(int fd, std::function<void()> stop) {
        signals_ = fd;
        stop_ = std::move(stop);
        check(loop_.add_fd(fd, EPOLLIN) ? 0 : -1, "add_fd");
    }

    bool on_accept(Conn&) override { return changed_ = true; }

    void on_read(Conn& conn) override {
        for (;;) {
            Frame frame = parse_frame(conn.input());
            if (frame.status == FrameStatus::incomplete) return;
            if (frame.status != FrameStatus::complete) return refuse(conn, frame.status);
            answer(conn, frame);
            conn.consume(frame.bytes.size());
        }
    }

    void on_close(Conn& conn) override {
        changed_ = true;
        timed_out_ += conn.error() == ETIMEDOUT;
    }

    void on_fd(int fd, std::uint32_t) override {
        if (fd == signals_) return on_signal();
        for (Job& job : worker_.finished()) {
            Conn* conn = loop_.conn(job.id);
            if (conn == nullptr) continue;  // it has not waited
            conn->write(job.answer);
            conn->release();
        }
    }

    void on_tick() override {
        if (!std::exchange(changed_, false)) return;
        std::fprintf(stderr, "07-evloop: %zu clients, %zu frames, %zu jobs, %zu timed out\n",
                     loop_.connections(), frames_, jobs_, timed_out_);
    }

private:
    void on_signal() {
        signalfd_siginfo signal;
        if (read(signals_, &signal, sizeof signal) == -1) return;
        std::fprintf(stderr, "07-evloop: %s: stopping, %zu clients\n", strsignal(signal.ssi_signo),
                     loop_.connections());
        stop_();
        loop_.remove_fd(signals_);
        sigset_t signals = stop_signal_set();
        pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);  // a second one ends the process at once
    }

    void answer(Conn& conn, const Frame& frame) {
        ++frames_;
        int ms = job_length(frame.payload);
        if (ms == 0) return conn.write(frame.bytes);
        ++jobs_;
        worker_.submit({conn.id(), ms, std::string(frame.bytes)});
        conn.hold();  // what comes behind it is answered after it
    }

    void refuse(Conn& conn, FrameStatus status) {
        std::fprintf(stderr, "07-evloop: %s: %s: closed\n", conn.peer().c_str(),
                     status == FrameStatus::bad_magic ? "not a frame" : "frame too long");
        conn.close();
    }

    Worker worker_;
    Loop loop_;
    int signals_ = -1;
    std::function<void()> stop_;
    bool changed_ = false;  // since the last line of statistics
    std::size_t frames_ = 0, jobs_ = 0, timed_out_ = 0;
};

// SIGINT and SIGTERM wait in the kernel, to be read from a descriptor. Before any thread is made.
Fd stop_signals() {
    sigset_t signals = stop_signal_set();
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    return Fd{check(signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC), "signalfd")};
}

int main(int argc, char** argv) try {
    int threads = 1, idle = 60'000, tick = 1'000, drain = 5'000;
    Options options =
        parse_options(argc, argv, "07-evloop", 9007,
                      {{"threads", &threads, 1, 64, "loops, each on a thread of its own"},
                       {"idle-ms", &idle, 0, 86'400'000,
                        "a client with no whole frame for so long is closed; 0: never"},
                       {"tick-ms", &tick, 1, 3'600'000, "how often deadlines are looked at"},
                       {"drain-ms", &drain, 1, 3'600'000, "how long a stop may take"}});
    using ms = std::chrono::milliseconds;
    Limits limits{.tick = ms(tick), .idle = ms(idle), .drain = ms(drain)};
    Fd signals = stop_signals();

    std::vector<std::unique_ptr<EchoServer>> servers;
    for (int i = 0; i < threads; ++i) {
        Fd listener = listen_on(options, SOCK_NONBLOCK, threads > 1);
        servers.push_back(std::make_unique<EchoServer>(limits, std::move(listener)));
    }
    servers[0]->watch_signals(signals.get(), [&] {
        for (auto& server : servers) server->loop().stop();
    });

    std::vector<std::jthread> others;
    for (int i = 1; i < threads; ++i)
        others.emplace_back([&loop = servers[i]->loop()](const std::stop_token& token) {
            std::stop_callback stop(token, [&loop] { loop.stop(); });  // if others has to go early
            loop.run();
        });
    announce(options);
    servers[0]->loop().run();
} catch (const std::system_error& error) {  // the kernel has no descriptor for a loop, or no thread
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
