// loop_fixture.h: a loop, a handler that keeps books, and clients, all on one thread.
//
// No test sleeps or looks at a clock. The loop's clock stands still until the test moves it, and a
// test waits for what it expects by turning the loop. The only real time is a failsafe.

#pragma once

#include "07-evloop/evloop.h"
#include "common/net.h"
#include "fake_kernel.h"

#include <cstdint>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

using namespace std::chrono_literals;

// A handler made of functions. Without any, it echoes. It checks what holds for every handler: no
// call for a connection before its first one or after its last one.
class Hooks : public Handler {
public:
    std::function<bool(Conn&)> accept;
    std::function<void(Conn&)> connect, read, close;
    std::function<void(int, std::uint32_t)> fd;
    std::function<void()> tick, stop;

    int accepted = 0, connected = 0, closed = 0, ticks = 0, reads = 0, stops = 0;
    std::set<const Conn*> open;
    std::vector<int> errors;  // of those that are closed, in order

    bool on_accept(Conn& conn) override;
    void on_connect(Conn& conn) override;
    void on_read(Conn& conn) override;
    void on_close(Conn& conn) override;
    void on_fd(int number, std::uint32_t events) override;
    void on_tick() override;
    void on_stop() override;
};

void echo(Conn& conn);
void echo_one(Conn& conn, std::size_t size);  // one message of this size, once it is whole
void take_all(Conn& conn);
std::string pattern(std::size_t size);  // bytes in which a lost or a moved one shows

// A client that never blocks. What it has received is in `bytes`.
class Client {
public:
    explicit Client(const Address& to, int receive_buffer = 0);

    int fd() const { return socket_.get(); }
    void send(std::string_view bytes);  // all of it: for what fits into the socket buffers
    std::size_t send_some(std::string_view bytes);
    void receive(std::size_t most = SIZE_MAX);
    void half_close() { shutdown(fd(), SHUT_WR); }
    void close() { socket_ = Fd{}; }
    void reset();

    bool over() const { return end_.has_value(); }
    bool ended() const { return end_ == 0; }  // in good order
    int error() const { return end_.value_or(0); }

    std::string bytes;

private:
    Fd socket_;
    std::optional<int> end_;
};

class LoopTest : public testing::Test {
protected:
    LoopTest();
    ~LoopTest() override;

    // Tests that need other limits begin with this.
    void make_loop(Limits limits = {});
    void end_loop();
    Loop& loop() { return *loop_; }

    Client& add_client(int receive_buffer = 0);
    void turn(int times = 1);  // clients receive after each
    [[nodiscard]] bool turn_until(const std::function<bool()>& condition, bool receive = true);
    // Turns until the loop says that it is done. Clients close when the loop has.
    [[nodiscard]] bool run_to_the_end();
    void pass(std::chrono::milliseconds time) { kernel.now += time; }
    Client& accepted_client(int receive_buffer = 0);
    Client& slow_client();  // its request was read; it has little room, and reads nothing itself
    Conn* last_conn();  // the one that was accepted last

    // Does the loop come to rest? It does when nothing but the tick has ended fifty waits in a row.
    // Moves the clock by a tick for each.
    [[nodiscard]] bool rests();

    KernelGuard guard_;
    int descriptors_before_;
    Hooks hooks;
    Address address;  // of the listener
    std::unique_ptr<Loop> loop_;
    std::vector<std::unique_ptr<Client>> clients;
    bool receiving = true;  // clients read what has come
};

int open_descriptors();
int listeners();  // sockets of this process that listen
int ports();  // of those that connect() gives away: ip(7), ip_local_port_range
bool is_local(const std::string& host);  // may one listen there? ::1 is not everywhere
Options any_port(const std::string& host = "127.0.0.1");

// Until the condition holds, or the failsafe.
[[nodiscard]] bool eventually(const std::function<bool()>& step_and_look);
