#include "generator.h"

#include <algorithm>
#include <cstring>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>

namespace {

constexpr int most_opening = 256;  // more would overflow the server's accept queue
constexpr std::int64_t ms = 1'000'000;  // in ns
constexpr std::int64_t second = 1'000 * ms;
constexpr std::int64_t shortest_period = 50'000;  // ns between two looks at what is due
constexpr rlim_t own_descriptors = 16;  // besides the connections

std::int64_t clock_ns() { return nanoseconds(CLOCK_MONOTONIC); }

// Never stop reading: a server that blocks until its client reads would wait for ever.
Limits limits_of_client() {
    return {.high_water = std::size_t{1} << 40,
            .low_water = std::size_t{1} << 40,
            .max_memory = std::size_t{1} << 40,
            .tick = std::chrono::milliseconds(50)};
}

Fd make_timer() {
    return Fd{check(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), "timerfd")};
}

}  // namespace

Generator::Generator(const Address& server)
    : server_(server),
      alarm_(make_timer()),
      pacer_(make_timer()),
      loop_(*this, limits_of_client()) {
    check(loop_.add_fd(alarm_.get(), EPOLLIN), "add_fd");
    check(loop_.add_fd(pacer_.get(), EPOLLIN), "add_fd");
}

const Report& Generator::run(const Plan& plan) {
    begin(plan);
    while (state_ != State::finished && loop_.turn()) {}
    return report_;
}

// ---- the states of a phase ----------------------------------------------------------------------

void Generator::begin(const Plan& next) {
    report_ = {.plan = next};
    frames_ = FrameMaker(next.size);
    bulk_frames_ = FrameMaker(next.bulk_size);
    budget_ = next.count;
    last_progress_ = clock_ns();
    looks_ = 0;
    cpu_before_ = cpu_of(plan().pid);
    report_.served = static_cast<int>(clients_.size());
    report_.wanted = std::max(next.connections + next.bulk + next.idle, report_.served);
    state_ = State::gathering;

    rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (report_.wanted + next.churn + own_descriptors <= limit.rlim_cur) return gather();
    report_.failed = "the limit is " + std::to_string(limit.rlim_cur) + " descriptors";
    finish();
}

// Open what is missing, a few at a time.
void Generator::gather() {
    bool refused = report_.lost + report_.wrong != 0 || !report_.errors.empty();
    while (!refused && opening_ < most_opening &&
           static_cast<int>(clients_.size()) < report_.wanted) {
        clients_.push_back(std::make_unique<Client>());
        refused = !open(*clients_.back(), Kind::idle);
    }
    if (opening_ != 0) return;
    if (report_.served == report_.wanted) begin_load();
    else give_up();
}

void Generator::give_up() {
    report_.failed =
        std::to_string(report_.served) + " of " + std::to_string(report_.wanted) + " served";
    finish();
}

void Generator::begin_load() {
    const std::size_t active = plan().connections;
    const std::size_t bulk = plan().bulk;
    for (std::size_t i = 0; i < clients_.size(); ++i)
        clients_[i]->kind = i < active ? Kind::active : i < active + bulk ? Kind::bulk : Kind::idle;
    state_ = State::warming;
    if (plan().count != 0 || plan().warm_up == 0) begin_timing();
    else set_timer(alarm_.get(), plan().warm_up * ms);

    std::int64_t now = clock_ns();
    for (std::size_t i = 0; i < active + bulk; ++i) refill(*clients_[i], now);
    if (plan().rate != 0) {
        paced_ = 0;
        paced_since_ = now;
        std::int64_t period = std::max(second / plan().rate, shortest_period);
        set_timer(pacer_.get(), period, period);
    }
    churn_.clear();
    for (int i = 0; i < plan().churn; ++i)
        open_churn(*churn_.emplace_back(std::make_unique<Client>()));
}

void Generator::begin_timing() {
    if (plan().count == 0) set_timer(alarm_.get(), plan().ms * ms);
    state_ = State::timing;
    report_.begin = usage_of(plan().pid, false);
}

void Generator::end_timing() {
    report_.end = usage_of(plan().pid, true);
    state_ = State::draining;
    set_timer(pacer_.get(), 0);
    report_.late = awaited();
    last_progress_ = clock_ns();
    finish_if_drained();
}

void Generator::finish_if_drained() {
    if (state_ == State::draining && owed_ == 0) finish();
}

void Generator::finish() {
    set_timer(alarm_.get(), 0);
    state_ = State::finished;
}

// ---- connections --------------------------------------------------------------------------------

bool Generator::open(Client& client, Kind kind) {
    client = {.kind = kind, .number = ++last_number_, .since = clock_ns()};
    client.conn = loop_.connect(server_);
    if (client.conn == nullptr) {
        ++report_.errors[std::strerror(errno)];
        return false;
    }
    client.conn->state = &client;
    if (kind == Kind::churn) ++owed_;
    else ++opening_;
    return true;
}

void Generator::open_churn(Client& client) {
    if (!may_send()) return finish_if_drained();
    if (plan().count != 0) --budget_;
    open(client, Kind::churn);
}

void Generator::on_connect(Conn& conn) {
    auto& client = *std::any_cast<Client*>(conn.state);
    send(client, client.since);
}

void Generator::on_close(Conn& conn) {
    auto& client = *std::any_cast<Client*>(conn.state);
    client.conn = nullptr;
    if (state_ == State::finished) return;  // of no interest any more, or found by the next phase
    last_progress_ = clock_ns();
    owed_ -= client.awaited.size();
    report_.missing += state_ == State::gathering ? 0 : client.awaited.size();

    bool churned = client.kind == Kind::churn && client.answered() != 0 && conn.error() == 0;
    if (!churned && !client.wrong) {
        ++report_.lost;
        ++report_.errors[conn.error() ? std::strerror(conn.error()) : "closed by the server"];
    }
    if (client.kind == Kind::churn) --owed_;
    if (churned) return open_churn(client);
    if (state_ != State::gathering) return finish_if_drained();
    if (client.answered() == 0) --opening_;
    else --report_.served;
    gather();
}

// ---- frames -------------------------------------------------------------------------------------

FrameMaker& Generator::frames(const Client& client) {
    return client.kind == Kind::bulk ? bulk_frames_ : frames_;
}

// How many echoes have not come.
std::uint64_t Generator::awaited() const {
    std::uint64_t sum = 0;
    for (const auto& list : {&clients_, &churn_})
        for (const auto& client : *list)
            if (client->conn != nullptr) sum += client->awaited.size();
    return sum;
}

bool Generator::may_send() const {
    return (state_ == State::warming || state_ == State::timing) &&
           (plan().count == 0 || budget_ > 0);
}

// Latency counts from when the frame was due. In the closed loop that is now.
void Generator::send(Client& client, std::int64_t due) {
    client.conn->write(frames(client).make(client.number, client.sent++));
    client.awaited.push_back(due);
    ++owed_;
}

// The closed loop: as soon as an echo has come, the next frame goes out.
void Generator::refill(Client& client, std::int64_t now) {
    bool closed_loop = client.kind == Kind::active && plan().rate == 0;
    if (!closed_loop && client.kind != Kind::bulk) return;
    std::size_t window = closed_loop ? plan().in_flight : plan().bulk_in_flight;
    while (client.conn != nullptr && client.awaited.size() < window && may_send()) {
        if (closed_loop && plan().count != 0) --budget_;
        send(client, now);
    }
}

// The open loop: frames go out when they are due, whether or not echoes have come. One that goes
// out late, because we or the server have been held up, counts from when it was due all the same:
// else a stall would show as a single slow frame instead of as all those that it has delayed.
void Generator::send_paced() {
    std::int64_t now = clock_ns();
    std::int64_t connections = plan().connections;
    for (;;) {
        std::int64_t due = paced_since_ + paced_ * second / plan().rate;
        if (due > now || !may_send()) return;
        if (plan().count != 0) --budget_;
        Client& client = *clients_[paced_++ % connections];
        if (client.conn != nullptr) send(client, due);
        else ++report_.missing;
    }
}

void Generator::on_read(Conn& conn) {
    auto& client = *std::any_cast<Client*>(conn.state);
    std::int64_t now = clock_ns();
    last_progress_ = now;
    while (take_echo(client)) answered(client, now);
    if (client.awaited.empty() && !conn.input().empty()) client.wrong = true;  // more than was sent
    if (client.wrong) {
        ++report_.wrong;
        return conn.abort();
    }
    refill(client, now);
    if (plan().count != 0 && report_.messages == static_cast<std::uint64_t>(plan().count) &&
        state_ == State::timing)
        return end_timing();
    finish_if_drained();
}

// Take the next echo from the input, if all of it has come and is what was sent.
bool Generator::take_echo(Client& client) {
    std::string_view input = client.conn->input();
    FrameMaker& maker = frames(client);
    if (client.awaited.empty() || input.size() < maker.size()) return false;
    std::string_view sent = maker.make(client.number, client.answered());
    client.wrong = input.substr(0, sent.size()) != sent;
    if (!client.wrong) client.conn->consume(sent.size());
    return !client.wrong;
}

void Generator::answered(Client& client, std::int64_t now) {
    std::int64_t due = client.awaited.front();
    client.awaited.pop_front();
    --owed_;
    if (state_ == State::timing && client.kind == Kind::bulk) ++report_.bulk_messages;
    else if (state_ == State::timing && client.kind != Kind::idle) {
        ++report_.messages;
        report_.latency.add(now - due);
    }
    if (client.kind == Kind::churn) return client.conn->close();
    if (state_ != State::gathering) return;
    --opening_;
    ++report_.served;
    gather();
}

// ---- time ---------------------------------------------------------------------------------------

void Generator::set_timer(int timer, std::int64_t first, std::int64_t period) {
    auto spec = [](std::int64_t ns) { return timespec{ns / second, ns % second}; };
    itimerspec time{.it_interval = spec(period), .it_value = spec(first)};
    timerfd_settime(timer, 0, &time, nullptr);
}

void Generator::on_fd(int fd, std::uint32_t) {
    std::uint64_t times;
    if (read(fd, &times, sizeof times) == -1) return;
    if (fd == pacer_.get() && plan().rate != 0) send_paced();
    else if (fd == alarm_.get() && state_ == State::warming) begin_timing();
    else if (fd == alarm_.get() && state_ == State::timing) end_timing();
}

// What has not come for so long will not come: unless the server has it and waits for a core. One
// that uses up so much CPU time goes in circles. It may have answered just before we looked, while
// we had no core ourselves: then its answer is here before we look again.
void Generator::on_tick() {
    std::int64_t patience = plan().patience * ms;
    bool stuck = clock_ns() - last_progress_ >= patience &&
                 !(at_work(plan().pid) && cpu_of(plan().pid) - cpu_before_ < 10 * patience);
    looks_ = stuck ? looks_ + 1 : 0;
    if (looks_ < 2) return;
    if (state_ == State::gathering) return give_up();
    if (state_ == State::timing && plan().count != 0) return end_timing();
    if (state_ != State::draining) return;
    report_.missing += awaited();
    finish();
}
