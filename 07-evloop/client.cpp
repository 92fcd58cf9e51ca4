// client.cpp: the other side of stage 07, on the same loop. Sends a frame on each connection, waits
// for its echo, sends the next, and says how long the answers took.
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

class Pinger : public Handler {
public:
    Pinger(const Plan& plan, const Address& server) : plan_(plan), loop_(*this) {
        auto header = frame_header(plan.size);
        frame_.assign(header.begin(), header.end());
        frame_.append(plan.size, '.');
        for (int i = 0; i < plan.connections; ++i) {
            if (loop_.connect(server) == nullptr) warn("connect");
            else ++open_;
        }
    }

    // 0 if every frame came back as it was.
    int run() {
        if (open_ != 0) loop_.run();
        print();
        return latencies_.size() == std::size_t(plan_.connections) * plan_.count ? 0 : 1;
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
        if (conn.error() != 0)
            std::fprintf(stderr, "%s: %s\n", conn.peer().c_str(), std::strerror(conn.error()));
        if (--open_ == 0) loop_.stop();
    }

private:
    void ping(Conn& conn) {
        std::any_cast<Progress&>(conn.state).sent_at = clock_ns();
        conn.write(frame_);
    }

    void print() {
        std::sort(latencies_.begin(), latencies_.end());
        std::printf("%zu of %zu frames of %d bytes came back\n", latencies_.size(),
                    std::size_t(plan_.connections) * plan_.count, plan_.size);
        if (latencies_.empty()) return;
        auto at = [this](double share) {
            return latencies_[std::size_t(share * double(latencies_.size() - 1))] / 1000.0;
        };
        std::printf("microseconds: fastest %.1f, median %.1f, 99%% under %.1f, slowest %.1f\n",
                    at(0), at(0.5), at(0.99), at(1));
    }

    const Plan plan_;
    Loop loop_;
    std::string frame_;
    int open_ = 0;
    std::vector<std::int64_t> latencies_;  // ns
};

int main(int argc, char** argv) {
    Plan plan;
    Options options = parse_options(argc, argv, "07-client", 9007,
                                    {{"connections", &plan.connections, 1, 10'000, "how many"},
                                     {"count", &plan.count, 1, 1'000'000, "frames on each"},
                                     {"size", &plan.size, 0, 1 << 20, "bytes in a frame"}});
    return Pinger(plan, options.address).run();
}
