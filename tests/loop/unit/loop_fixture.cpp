#include "loop_fixture.h"

#include <cstdio>
#include <cstdlib>
#include <dirent.h>
#include <sys/ioctl.h>
#include <system_error>

bool Hooks::on_accept(Conn& conn) {
    EXPECT_FALSE(open.contains(&conn));
    open.insert(&conn);
    bool take = false;
    try {
        take = accept ? accept(conn) : true;
    } catch (...) {
        open.erase(&conn);
        throw;
    }
    accepted += take;
    if (!take) open.erase(&conn);
    return take;
}

void Hooks::on_connect(Conn& conn) {
    EXPECT_FALSE(open.contains(&conn));
    open.insert(&conn);
    ++connected;
    if (connect) connect(conn);
}

void Hooks::on_read(Conn& conn) {
    EXPECT_TRUE(open.contains(&conn)) << "on_read() before the first call or after the last";
    EXPECT_FALSE(conn.input().empty());
    ++reads;
    if (read) read(conn);
    else echo(conn);
}

void Hooks::on_close(Conn& conn) {
    ++closed;
    open.erase(&conn);
    errors.push_back(conn.error());
    if (close) close(conn);
}

void Hooks::on_fd(int number, std::uint32_t events) {
    if (fd) fd(number, events);
}

void Hooks::on_tick() {
    ++ticks;
    if (tick) tick();
}

void Hooks::on_stop() {
    ++stops;
    if (stop) stop();
}

void echo(Conn& conn) {
    std::string_view bytes = conn.input();
    conn.write(bytes);
    conn.consume(bytes.size());
}

void echo_one(Conn& conn, std::size_t size) {
    if (conn.input().size() < size) return;
    conn.write(conn.input().substr(0, size));
    conn.consume(size);
}

void take_all(Conn& conn) { conn.consume(conn.input().size()); }

std::string pattern(std::size_t size) {
    std::string bytes(size, '\0');
    std::uint32_t x = 1;
    for (char& byte : bytes) {
        x = x * 1664525 + 1013904223;
        byte = static_cast<char>(x >> 24);
    }
    return bytes;
}

Client::Client(const Address& to, int receive_buffer)
    : socket_(socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (receive_buffer != 0)
        setsockopt(fd(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    if (real::connect(fd(), to.data(), to.length) == -1) {
        end_ = errno;
        socket_ = Fd{};
    }
}

std::size_t Client::send_some(std::string_view data) {
    ssize_t n = real::send(fd(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return n == -1 ? 0 : n;
}

void Client::send(std::string_view data) {
    EXPECT_EQ(real::send(fd(), data.data(), data.size(), MSG_NOSIGNAL), ssize_t(data.size()));
}

void Client::receive(std::size_t most) {
    if (!socket_ || over()) return;
    char room[64 << 10];
    while (most > 0) {
        ssize_t n = real::recv(fd(), room, std::min(sizeof room, most), MSG_DONTWAIT);
        if (n == -1 && errno == EINTR) continue;
        if (n == -1 && errno == EAGAIN) return;
        if (n <= 0) return void(end_ = n == 0 ? 0 : errno);
        bytes.append(room, n);
        most -= n;
    }
}

void Client::reset() {
    linger now{.l_onoff = 1, .l_linger = 0};
    setsockopt(fd(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close();
}

Options any_port(const std::string& host) { return {"test", *parse_address(host, 0)}; }

bool is_local(const std::string& host) {
    Address address = *parse_address(host, 0);
    Fd fd{socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0)};
    return fd && bind(fd.get(), address.data(), address.length) == 0;
}

int ports() {
    int low = 0, high = 0;
    if (FILE* file = std::fopen("/proc/sys/net/ipv4/ip_local_port_range", "r")) {
        if (std::fscanf(file, "%d %d", &low, &high) != 2) high = low;
        std::fclose(file);
    }
    return high - low;
}

int open_descriptors() {
    DIR* directory = opendir("/proc/self/fd");
    int count = -1;  // its own
    while (dirent* entry = readdir(directory)) count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

int listeners() {
    DIR* directory = opendir("/proc/self/fd");
    int count = 0;
    while (dirent* entry = readdir(directory)) {
        int listens = 0;
        socklen_t length = sizeof listens;
        getsockopt(std::atoi(entry->d_name), SOL_SOCKET, SO_ACCEPTCONN, &listens, &length);
        count += listens;
    }
    closedir(directory);
    return count;
}

namespace {

// How long this thread has had to wait for a core, so far: proc(5).
std::chrono::nanoseconds waited_for_a_core() {
    unsigned long long running = 0, waiting = 0;
    if (FILE* file = std::fopen("/proc/thread-self/schedstat", "r")) {
        if (std::fscanf(file, "%llu %llu", &running, &waiting) != 2) waiting = 0;
        std::fclose(file);
    }
    return std::chrono::nanoseconds(waiting);
}

}  // namespace

bool eventually(const std::function<bool()>& step_and_look) {
    // tests/mutants has tests fail by the dozen and sets a shorter one.
    const char* set = std::getenv("TEST_FAILSAFE");
    auto begin = std::chrono::steady_clock::now();
    auto failsafe = std::chrono::seconds(set ? std::atoi(set) : 60);
    auto waited_before = waited_for_a_core();
    while (!step_and_look()) {
        auto passed = std::chrono::steady_clock::now() - begin;
        // On a busy machine a test waits for its turn, and that is no failure.
        if (passed > failsafe && passed - (waited_for_a_core() - waited_before) > failsafe)
            return false;
    }
    return true;
}

LoopTest::LoopTest() : descriptors_before_(open_descriptors()) {
    kernel.clock_stopped = true;
    make_loop();
}

LoopTest::~LoopTest() {
    kernel = Kernel{};  // what a test has put there used its local variables, which are gone
    hooks.accept = {};
    hooks.connect = hooks.read = hooks.close = {};
    hooks.fd = {};
    hooks.tick = hooks.stop = {};
    clients.clear();
    end_loop();
    EXPECT_EQ(open_descriptors(), descriptors_before_) << "descriptors before and after the test";
}

void LoopTest::make_loop(Limits limits) {
    if (loop_) end_loop();
    loop_ = std::make_unique<Loop>(hooks, limits);
    Options options = any_port();
    EXPECT_TRUE(loop_->listen(listen_on(options)));
    address = options.address;
}

void LoopTest::end_loop() {
    loop_.reset();
    hooks.open.clear();  // the end of the loop calls no hook
}

Client& LoopTest::add_client(int receive_buffer) {
    clients.push_back(std::make_unique<Client>(address, receive_buffer));
    return *clients.back();
}

Client& LoopTest::accepted_client(int receive_buffer) {
    int before = hooks.accepted;
    Client& client = add_client(receive_buffer);
    if (client.over())
        throw std::system_error(client.error(), std::generic_category(), "connect()");
    EXPECT_TRUE(turn_until([&] { return hooks.accepted > before; }));
    return client;
}

Client& LoopTest::slow_client() {
    Client& client = accepted_client(4096);
    receiving = false;
    client.send("go");
    EXPECT_TRUE(turn_until([&] { return hooks.reads == 1; }));
    return client;
}

Conn* LoopTest::last_conn() {
    const Conn* last = nullptr;
    for (const Conn* conn : hooks.open)
        if (last == nullptr || conn->id() > last->id()) last = conn;
    return loop().conn(last->id());
}

void LoopTest::turn(int times) {
    for (int i = 0; i < times; ++i) {
        loop().turn();
        for (auto& client : clients)
            if (receiving) client->receive();
    }
}

bool LoopTest::turn_until(const std::function<bool()>& condition, bool receive) {
    return eventually([&] {
        if (condition()) return true;
        loop().turn();
        for (auto& client : clients)
            if (receiving && receive) client->receive();
        return condition();
    });
}

bool LoopTest::run_to_the_end() {
    return eventually([&] {
        bool more = loop().turn();
        for (auto& client : clients) {
            if (receiving) client->receive();
            if (client->over()) client->close();
        }
        return !more;
    });
}

bool LoopTest::rests() {
    kernel.time_flies = true;
    kernel.quiet_waits = 0;
    for (int i = 0; i < 3000 && kernel.quiet_waits < 50; ++i) turn();
    kernel.time_flies = false;
    return kernel.quiet_waits == 50;
}
