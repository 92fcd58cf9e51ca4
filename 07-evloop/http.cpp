// http.cpp: another protocol on the same loop, for clients that nobody here wrote: curl, a browser,
// wrk, a load balancer. It serves a page at /, N bytes at /bytes/N, and at /healthy whether it
// means to stay. Not a line of evloop.* knows about it.
//
// Build: g++ -std=c++20 -O2 -I. 07-evloop/http.cpp 07-evloop/evloop.cpp -o http -pthread

#include "http.h"

#include "common/net.h"
#include "evloop.h"
#include "process.h"

#include <algorithm>
#include <any>
#include <charconv>
#include <ctime>
#include <string>
#include <string_view>
#include <sys/epoll.h>
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
    HttpServer(const Limits& limits, Fd listener, StopSignals& signals)
        : signals_(signals), loop_(*this, limits) {
        check(loop_.listen(std::move(listener)), "listen");
        check(loop_.add_fd(signals.fd(), EPOLLIN), "add_fd");
    }

    void run() { loop_.run(); }

    bool on_accept(Conn& conn) override {
        conn.state = Body();  // none is still to come
        return true;
    }

    // Clients may send requests without waiting for answers, which then come in the same order
    // (RFC 9112, 9.3.2). The loop sends all answers of a turn together.
    void on_read(Conn& conn) override {
        while (take_body(conn)) {
            Request request = parse_request(conn.input());
            if (request.status == 0) return;
            answer(conn, request);
            conn.consume(request.head_size);
            body_of(conn) = Body(request);
        }
    }

    // From the first signal on, /healthy says 503, and the answer to a client's last request says
    // "Connection: close". All are served as before until Limits::notice is over: a load balancer
    // has time to see it.
    void on_fd(int, std::uint32_t) override {
        if (signals_.take() != 0) loop_.stop();
    }

    // An answer should say when it was made (RFC 9110, 6.6.1). A second is all that it can say, so
    // it is asked for once a second and not for every answer.
    void on_tick() override { date_ = http_date(std::time(nullptr)); }

private:
    static Body& body_of(Conn& conn) { return std::any_cast<Body&>(conn.state); }

    // Nobody wants it, and the answer has been sent already. But the next request begins behind it.
    static bool take_body(Conn& conn) {
        Body& body = body_of(conn);
        std::size_t taken = body.take(conn.input());
        if (taken != 0) conn.consume(taken);
        if (body.broken()) conn.close();
        return body.over();
    }

    void answer(Conn& conn, const Request& request) {
        Response response = respond(request);
        bool keep_alive = request.keep_alive && !(loop_.stopping() && is_last(conn, request));
        bool tells_methods = response.status == 204 || response.status == 405;
        head_.clear();
        append_head(head_, response, date_, keep_alive,
                    tells_methods ? "Allow: GET, HEAD, OPTIONS\r\n" : "");
        conn.write(head_);
        if (request.method != "HEAD") conn.write(response.body);
        // The client may still be sending. The loop waits for its end, lest a reset destroy the
        // answer: RFC 9112, 9.6, tells servers to do just that.
        if (!keep_alive) conn.close();
    }

    // Has no other request come behind it? After an answer that says "close" none may be answered.
    static bool is_last(const Conn& conn, const Request& request) {
        std::string_view behind = conn.input().substr(request.head_size);
        return Body(request).take(behind) == behind.size();
    }

    Response respond(const Request& request) const {
        if (request.status != 200) return error(request.status);
        bool asks_what_is_allowed = request.method == "OPTIONS";
        if (asks_what_is_allowed && request.path.empty()) return {204, "", ""};  // of the server
        if (!asks_what_is_allowed && request.method != "GET" && request.method != "HEAD")
            return error(is_method(request.method) ? 405 : 501);
        Response found = find(plain_path(request.path));
        return asks_what_is_allowed && found.status == 200 ? Response{204, "", ""} : found;
    }

    Response find(std::string_view path) const {
        if (path == "/") return {200, "text/html", page};
        if (path == "/healthy")
            return loop_.stopping() ? error(503) : Response{200, "text/plain", "yes\n"};

        constexpr std::string_view prefix = "/bytes/";
        if (!path.starts_with(prefix)) return error(404);
        const char* end = path.data() + path.size();
        std::size_t size = 0;
        auto [stop, failure] = std::from_chars(path.data() + prefix.size(), end, size);
        if (failure != std::errc{} || stop != end || size > max_bytes) return error(404);
        return {200, "text/plain", std::string_view(rows_).substr(0, size)};
    }

    static Response error(int status) { return {status, "text/plain", status_line(status)}; }

    // "Not allowed" is for methods that exist, "not implemented" for others (RFC 9110, 9.1).
    static bool is_method(std::string_view method) {
        constexpr std::string_view others[] = {"POST",    "PUT",   "DELETE",
                                               "CONNECT", "TRACE", "PATCH"};
        return std::ranges::find(others, method) != std::end(others);
    }

    const std::string rows_ = rows(max_bytes);
    std::string date_ = http_date(std::time(nullptr));
    std::string head_;  // kept, so that an answer needs no memory
    StopSignals& signals_;
    Loop loop_;
};

int main(int argc, char** argv) try {
    int idle = 60'000, drain = 5'000, notice = 1'000, reuse_port = 0;
    Options options = parse_options(
        argc, argv, "07-http", 9080,
        {{"idle-ms", &idle, 0, 86'400'000,
          "a client is closed after so long without a request, some of a body or an answer taken; "
          "0: never"},
         {"notice-ms", &notice, 0, 3'600'000,
          "a stop is announced for so long before it begins: /healthy says 503, answers say close"},
         {"drain-ms", &drain, 1, 3'600'000, "how long the stop may then take"},
         {"reuse-port", &reuse_port, 0, 1, "1: other processes may listen on the same port"}});
    using ms = std::chrono::milliseconds;
    StopSignals signals;
    Fd listener = take_listener(options, 0, reuse_port);
    HttpServer server({.idle = ms(idle), .drain = ms(drain), .notice = ms(notice)},
                      std::move(listener), signals);
    announce(options);
    server.run();
} catch (const std::system_error& error) {  // the kernel has no descriptor for a loop
    say("%s", error.what());
    return 1;
}
