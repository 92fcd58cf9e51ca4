// client.cpp: the other side of stage 07, on the same loop. Sends a frame on each connection, waits
// for its echo, sends the next, and says how long the answers took. A server that says nothing is
// given up after --timeout-ms.
//
// Build: g++ -std=c++20 -O2 -I. 07-evloop/client.cpp 07-evloop/evloop.cpp -o client -pthread

#include "common/options.h"
#include "evloop.h"
#include "frame.h"

#include <algorithm>
#include <cstring>
#include <ctime>

struct Plan {
    int connections = 1;
    int count = 10;  // frames on each
    int size = 64;  // bytes of payload
    int timeout = 10'000;  // ms
};

// What one connection has done so far.
struct Progress {
    int answered = 0;
    std::int64_t sent_at = 0;  // ns
};

std::int64_t clock_ns() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

// A connection that has waited for so long is over, whether for its server or for an answer.
Limits limits_of(const Plan& plan) {
    std::chrono::milliseconds timeout(plan.timeout);
    return {.tick = std::min(timeout, std::chrono::milliseconds(100)),
            .idle = timeout,
            .connect = timeout};
}

class Pinger : public Handler {
public:
    Pinger(const Plan& plan, const Address& server)
        : plan_(plan),
          frame_(make_frame(std::string(plan.size, '.'))),
          loop_(*this, limits_of(plan)) {
        for (int i = 0; i < plan.connections; ++i) {
            if (loop_.connect(server) == nullptr) warn("connect");
            else ++open_;
        }
    }

    // 0 if every frame came back as it was.
    int run() {
        if (open_ != 0) loop_.run();
        print();
        return latencies_.size() == wanted() ? 0 : 1;
    }

    void on_connect(Conn& conn) override {
        conn.state = Progress{};
        ping(conn);
    }

    void on_read(Conn& conn) override {
        Frame frame = parse_frame(conn.input());
        if (frame.status == FrameStatus::incomplete) return;
        if (frame.bytes != frame_) return conn.abort();  // not what was sent

        auto& progress = std::any_cast<Progress&>(conn.state);
        latencies_.push_back(clock_ns() - progress.sent_at);
        conn.consume(frame.bytes.size());
        if (++progress.answered == plan_.count) conn.close();
        else ping(conn);
    }

    void on_close(Conn& conn) override {
        if (conn.error() != 0) say("%s: %s", conn.peer().c_str(), std::strerror(conn.error()));
        if (--open_ == 0) loop_.stop();
    }

private:
    void ping(Conn& conn) {
        std::any_cast<Progress&>(conn.state).sent_at = clock_ns();
        conn.write(frame_);
    }

    void print() {
        std::sort(latencies_.begin(), latencies_.end());
        char text[300];
        int length = std::snprintf(text, sizeof text, "%zu of %zu frames of %d bytes came back\n",
                                   latencies_.size(), wanted(), plan_.size);
        if (!latencies_.empty())
            length += std::snprintf(
                text + length, sizeof text - length,
                "microseconds: fastest %.1f, median %.1f, 99%% under %.1f, slowest %.1f\n",
                latency_at(0), latency_at(0.5), latency_at(0.99), latency_at(1));
        check(write_all(STDOUT_FILENO, {text, std::size_t(length)}), "stdout");
    }

    std::size_t wanted() const { return std::size_t(plan_.connections) * plan_.count; }

    // In microseconds; so large a share of the answers came as fast.
    double latency_at(double share) const {
        return latencies_[std::size_t(share * double(latencies_.size() - 1))] / 1000.0;
    }

    const Plan plan_;
    const std::string frame_;
    int open_ = 0;
    std::vector<std::int64_t> latencies_;  // ns
    Loop loop_;
};

int main(int argc, char** argv) {
    Plan plan;
    Options options = parse_options(argc, argv, "07-client", 9007,
                                    {{"connections", &plan.connections, 1, 10'000, "how many"},
                                     {"count", &plan.count, 1, 1'000'000, "frames on each"},
                                     {"size", &plan.size, 0, 1 << 20, "bytes in a frame"},
                                     {"timeout-ms", &plan.timeout, 1, 86'400'000,
                                      "a server that is silent for so long is given up"}});
    return Pinger(plan, options.address).run();
}
