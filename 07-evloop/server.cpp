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
#include "process.h"
#include "worker.h"

#include <cstring>
#include <functional>
#include <sys/epoll.h>
#include <system_error>
#include <thread>

// Is it whole, and no work?
bool is_plain(const Frame& frame) {
    return frame.status == FrameStatus::complete && job_length(frame.payload) == 0;
}

// Echoes frames. One per thread; nothing is shared between two of them.
class EchoServer : public Handler {
public:
    EchoServer(const Limits& limits, Fd listener) : loop_(*this, limits) {
        check(loop_.listen(std::move(listener)), "listen");
        check(loop_.add_fd(worker_.fd(), EPOLLIN), "add_fd");
    }

    Loop& loop() { return loop_; }

    // Signals come as an event of a descriptor like any other.
    void watch(StopSignals& signals, std::function<void()> stop) {
        signals_ = &signals;
        stop_ = std::move(stop);
        check(loop_.add_fd(signals.fd(), EPOLLIN), "add_fd");
    }

    bool on_accept(Conn&) override {
        changed_ = true;
        return true;
    }

    // Frames that are no work go back as they are, all that have come with one write(). Then there
    // is half a frame, or work, or something that is no frame.
    void on_read(Conn& conn) override {
        std::string_view input = conn.input();
        std::size_t done = 0;  // bytes
        Frame frame = parse_frame(input);
        for (; is_plain(frame); frame = parse_frame(input.substr(done))) {
            done += frame.bytes.size();
            ++frames_;
        }
        conn.write(input.substr(0, done));
        if (frame.status == FrameStatus::complete) {
            work(conn, frame);
            done += frame.bytes.size();
        } else if (frame.status != FrameStatus::incomplete) {
            return refuse(conn, frame.status);
        }
        conn.consume(done);
    }

    void on_close(Conn& conn) override {
        changed_ = true;
        timed_out_ += conn.error() == ETIMEDOUT;
        worker_.cancel(conn.id());
    }

    void on_fd(int fd, std::uint32_t) override {
        if (fd == worker_.fd()) on_finished();
        else on_signal();
    }

    void on_tick() override {
        if (!std::exchange(changed_, false)) return;
        say("07-evloop: %zu clients, %zu frames, %zu jobs, %zu timed out", loop_.connections(),
            frames_, jobs_, timed_out_);
    }

private:
    void on_finished() {
        for (Job& job : worker_.finished()) {
            Conn* conn = loop_.conn(job.client);
            if (conn == nullptr) continue;  // it has left in this very moment
            conn->write(job.answer);
            conn->release();
        }
    }

    void on_signal() {
        int signal = signals_->take();
        if (signal == 0) return;
        say("07-evloop: %s: stopping, %zu clients", strsignal(signal), loop_.connections());
        stop_();
    }

    void work(Conn& conn, const Frame& frame) {
        ++frames_;
        if (!worker_.submit({conn.id(), job_length(frame.payload), std::string(frame.bytes)}))
            return conn.write(busy_);
        ++jobs_;
        conn.hold();  // what comes behind it is answered after it
    }

    void refuse(Conn& conn, FrameStatus status) {
        say("07-evloop: %s: %s: closed", conn.peer().c_str(),
            status == FrameStatus::bad_magic ? "not a frame" : "frame too long");
        conn.close();
    }

    const std::string busy_ = make_frame("busy");
    Worker worker_;
    StopSignals* signals_ = nullptr;
    std::function<void()> stop_;
    bool changed_ = false;  // since the last line of statistics
    std::size_t frames_ = 0, jobs_ = 0, timed_out_ = 0;
    Loop loop_;
};

int main(int argc, char** argv) try {
    int threads = 1, idle = 60'000, tick = 1'000, drain = 5'000, reuse_port = 0;
    Options options = parse_options(
        argc, argv, "07-evloop", 9007,
        {{"threads", &threads, 1, 64, "loops, each on a thread of its own"},
         {"idle-ms", &idle, 0, 86'400'000,
          "a client is closed after so long without a frame, an answer taken or a job; 0: never"},
         {"tick-ms", &tick, 1, 3'600'000, "how often deadlines are looked at"},
         {"drain-ms", &drain, 1, 3'600'000, "how long a stop may take"},
         {"reuse-port", &reuse_port, 0, 1, "1: other processes may listen on the same port"}});
    using ms = std::chrono::milliseconds;
    Limits limits{.tick = ms(tick), .idle = ms(idle), .drain = ms(drain)};
    StopSignals signals;

    std::vector<std::unique_ptr<EchoServer>> servers;
    for (int i = 0; i < threads; ++i) {
        Fd listener = take_listener(options, i, threads > 1 || reuse_port);
        servers.push_back(std::make_unique<EchoServer>(limits, std::move(listener)));
    }
    servers[0]->watch(signals, [&] {
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
    say("%s", error.what());
    return 1;
}
