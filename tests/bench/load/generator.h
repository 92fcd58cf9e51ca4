// generator.h: sends frames to a server, checks every byte of every echo, and measures.
//
// A phase goes through five states:
//
//     gathering   open the connections; each has one echo before it counts as served
//     warming     the load of the plan, unmeasured
//     timing      the same, measured
//     draining    nothing new is sent; every echo that is owed is awaited
//     finished    the connections stay open for the next phase

#pragma once

#include "07-evloop/evloop.h"
#include "frames.h"
#include "report.h"

#include <deque>
#include <memory>
#include <vector>

class Generator : public Handler {
public:
    explicit Generator(const Address& server);

    // Go through one phase, on the connections of the last one and as many more as it takes. After
    // one that was not good() there should be no other: echoes of it may still come.
    const Report& run(const Plan& plan);

    void on_connect(Conn& conn) override;
    void on_read(Conn& conn) override;
    void on_close(Conn& conn) override;
    void on_fd(int fd, std::uint32_t events) override;
    void on_tick() override;

private:
    enum class State { gathering, warming, timing, draining, finished };
    enum class Kind { active, bulk, idle, churn };

    struct Client {
        Kind kind = Kind::idle;
        Conn* conn = nullptr;  // nullptr: it is closed
        std::uint32_t number = 0;  // no other has had it
        std::uint32_t sent = 0;  // frames
        bool wrong = false;  // an echo was not what had been sent
        std::int64_t since = 0;  // ns: when connect() was called
        std::deque<std::int64_t> awaited{};  // ns: when each frame that has no echo yet was due

        std::uint32_t answered() const { return sent - static_cast<std::uint32_t>(awaited.size()); }
    };

    void begin(const Plan& plan);
    void gather();
    void give_up();
    void begin_load();
    void begin_timing();
    void end_timing();
    void finish();
    void finish_if_drained();

    bool open(Client& client, Kind kind);
    void open_churn(Client& client);
    void send(Client& client, std::int64_t due);
    void refill(Client& client, std::int64_t now);
    void send_paced();
    bool take_echo(Client& client);
    void answered(Client& client, std::int64_t now);

    bool may_send() const;
    std::uint64_t awaited() const;
    FrameMaker& frames(const Client& client);
    const Plan& plan() const { return report_.plan; }
    void set_timer(int timer, std::int64_t first, std::int64_t period = 0);

    const Address server_;
    Report report_;
    State state_ = State::finished;
    Fd alarm_;  // a timer: the next change of state is due
    Fd pacer_;  // a timer: the next frames of the open loop are due
    FrameMaker frames_{0}, bulk_frames_{0};
    std::vector<std::unique_ptr<Client>> clients_;
    std::vector<std::unique_ptr<Client>> churn_;
    std::uint32_t last_number_ = 0;
    std::int64_t last_progress_ = 0;  // ns
    int looks_ = 0;  // in a row at which nothing had come for too long, and the server did not work
    std::int64_t cpu_before_ = 0;  // ns that the server had used up before this phase
    std::int64_t paced_since_ = 0;  // ns
    std::int64_t paced_ = 0;  // frames of the open loop sent since then
    std::uint64_t owed_ = 0;  // echoes, and churning connections that are open
    int opening_ = 0;  // connections without a first echo
    int budget_ = 0;  // frames that a phase of --count may still send
    Loop loop_;
};
