// http.cpp: another protocol on the same loop, for clients that nobody here wrote: curl, a browser,
// wrk. It serves a page at /, and N bytes at /bytes/N. Not a line of evloop.* knows about it.
//
// Build: g++ -std=c++20 -O2 -I. 07-evloop/http.cpp 07-evloop/evloop.cpp -o http -pthread

#include "http.h"

#include "common/net.h"
#include "evloop.h"

#include <algorithm>
#include <any>
#include <charconv>
#include <csignal>
#include <ctime>
#include <string>
#include <string_view>
#include <system_error>

constexpr std::size_t max_bytes = 1 << 20;  // of /bytes/N

constexpr std::string_view page = R"(<!DOCTYPE html>
<html lang="en">
<title>07-http</title>
<h1>It works</h1>
<p>An event loop has sent this page, and it knows nothing about HTTP.
<p>There is also <a href="/bytes/64">/bytes/64</a>, with any number up to 1048576.
</html>
)";

// `size` bytes in rows of 64, so that a terminal can show them.
std::string rows(std::size_t size) {
    constexpr std::string_view row =
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.\n";
    std::string text;
    while (text.size() < size) text += row;
    text.resize(size);
    return text;
}

class HttpServer : public Handler {
public:
    HttpServer(const Limits& limits, Fd listener) : loop_(*this, limits) {
        check(loop_.listen(std::move(listener)) ? 0 : -1, "listen");
    }

    Loop& loop() { return loop_; }

    bool on_accept(Conn& conn) override {
        conn.state = std::uint64_t{0};  // bytes still to come of a body that nobody wants
        return true;
    }

    // Clients may send requests without waiting for answers, which then come in the same order
    // (RFC 9112, 9.3.2). The loop sends all answers of a turn together.
    void on_read(Conn& conn) override {
        for (;;) {
            skip_body(conn);
            Request request = parse_request(conn.input());
            if (request.status == 0) return;
            answer(conn, request);
            conn.consume(request.head_size);
            conn.state = request.body_size;
        }
    }

    // An answer should say when it was made (RFC 9110, 6.6.1). A second is all that it can say, so
    // it is asked for once a second and not for every answer.
    void on_tick() override { date_ = http_date(std::time(nullptr)); }

private:
    // As it comes: memory must not follow a length that was only claimed.
    void skip_body(Conn& conn) {
        auto& left = std::any_cast<std::uint64_t&>(conn.state);
        std::size_t n = std::min<std::uint64_t>(left, conn.input().size());
        left -= n;
        if (n != 0) conn.consume(n);
    }

    void answer(Conn& conn, const Request& request) {
        Response response = respond(request);
        head_.clear();
        append_head(head_, response, date_, request.keep_alive,
                    response.status == 405 ? "Allow: GET, HEAD\r\n" : "");
        conn.write(head_);
        if (request.method != "HEAD") conn.write(response.body);
        // The client may still be sending. The loop waits for its end, lest a reset destroy the
        // answer: RFC 9112, 9.6, tells servers to do just that.
        if (!request.keep_alive) conn.close();
    }

    Response respond(const Request& request) const {
        if (request.status != 200) return error(request.status);
        if (request.method != "GET" && request.method != "HEAD")
            return error(is_method(request.method) ? 405 : 501);
        if (request.path == "/") return {200, "text/html", page};

        constexpr std::string_view prefix = "/bytes/";
        if (!request.path.starts_with(prefix)) return error(404);
        const char* end = request.path.data() + request.path.size();
        std::size_t size = 0;
        auto [stop, failure] = std::from_chars(request.path.data() + prefix.size(), end, size);
        if (failure != std::errc{} || stop != end || size > max_bytes) return error(404);
        return {200, "text/plain", std::string_view(rows_).substr(0, size)};
    }

    static Response error(int status) { return {status, "text/plain", status_line(status)}; }

    // "Not allowed" is for methods that exist, "not implemented" for others (RFC 9110, 9.1).
    static bool is_method(std::string_view method) {
        constexpr std::string_view others[] = {"POST",    "PUT",   "DELETE", "CONNECT",
                                               "OPTIONS", "TRACE", "PATCH"};
        return std::ranges::find(others, method) != std::end(others);
    }

    const std::string rows_ = rows(max_bytes);
    std::string date_ = http_date(std::time(nullptr));
    std::string head_;  // kept, so that an answer needs no memory
    Loop loop_;
};

Loop* running = nullptr;  // a signal handler gets no argument

void stop_on_signals(Loop& loop) {
    running = &loop;
    struct sigaction action {};
    action.sa_handler = [](int) {
        for (int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);  // the next one kills
        running->stop();
    };
    for (int signal : {SIGINT, SIGTERM}) check(sigaction(signal, &action, nullptr), "sigaction");
}

int main(int argc, char** argv) try {
    int idle = 60'000;
    Options options = parse_options(
        argc, argv, "07-http", 9080,
        {{"idle-ms", &idle, 0, 86'400'000,
          "a client that sends no request, and no body, for so long is closed; 0: never"}});
    Fd listener = listen_on(options, SOCK_NONBLOCK);
    HttpServer server({.idle = std::chrono::milliseconds(idle)}, std::move(listener));
    stop_on_signals(server.loop());
    announce(options);
    server.loop().run();
} catch (const std::system_error& error) {  // the kernel has no descriptor for a loop
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
