// http.h: as much of HTTP/1.1 as a server of fixed pages needs. Bytes in, bytes out; no sockets.
//
//     GET /bytes/5 HTTP/1.1      method, target and version, with one space between them
//     Host: 127.0.0.1:9080       fields, their names in any case
//                                an empty line ends the head; Content-Length bytes may follow it
//
// Where a request ends must not be a matter of opinion: if a proxy sees another end than we do,
// what is a body to one of us is a request to the other. So RFC 9112 wants much to be refused, and
// here it is. Not here: chunked bodies, which every recipient should read (7.1); 501 is the answer.
//
// Numbers in brackets are sections of RFC 9112; "9110, 8.6" is one of RFC 9110.

#pragma once

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <strings.h>

constexpr std::size_t max_request_head = 8 << 10;  // bytes; at least 8000 for its first line (3)
constexpr std::uint64_t max_request_body = 1 << 20;  // bytes

struct Request {
    // 0: what is there may become a request. 200: its head is at the front of the bytes. Else it
    // never will be: this is the answer, after which the connection is closed.
    int status = 0;
    std::string_view method;  // a part of what was parsed, as is the path
    std::string_view path;  // without the query; OPTIONS and CONNECT may have none
    std::size_t head_size = 0;  // bytes, with the empty line
    std::uint64_t body_size = 0;  // bytes that come behind it
    bool keep_alive = false;  // the client does not want the connection closed
};

struct Response {
    int status;
    std::string_view type;  // of the body
    std::string_view body;
};

// ---- Words and characters ----------------------------------------------------------------------

inline bool equal_ignoring_case(std::string_view a, std::string_view b) {
    return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

// Methods and the names of fields are tokens (9110, 5.6.2).
inline bool is_token(std::string_view word) {
    auto allowed = [](unsigned char c) {
        return std::isalnum(c) || (c != 0 && std::strchr("!#$%&'*+-.^_`|~", c) != nullptr);
    };
    return !word.empty() && std::all_of(word.begin(), word.end(), allowed);
}

inline bool is_control(unsigned char c) { return (c < ' ' && c != '\t') || c == 0x7f; }

inline std::string_view trim(std::string_view text) {
    std::size_t first = text.find_first_not_of(" \t");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// The path in "/path?query", or in "http://host/path?query", which is what proxies are sent and
// every server must understand (3.2.2). Empty if there is none.
inline std::string_view path_of(std::string_view target) {
    constexpr std::string_view scheme = "http://";
    if (equal_ignoring_case(target.substr(0, scheme.size()), scheme)) {
        target.remove_prefix(scheme.size());
        std::size_t host_end = std::min(target.find_first_of("/?"), target.size());
        if (host_end == 0) return {};
        target.remove_prefix(host_end);
        if (!target.starts_with('/')) return "/";
    }
    return target.starts_with('/') ? target.substr(0, target.find('?')) : std::string_view{};
}

// ---- Bytes in ----------------------------------------------------------------------------------

// Reads the head of a request line by line. Each step says the status, once it is known, or 0.
class RequestParser {
public:
    Request& request() { return request_; }

    int take(std::string_view line) {
        bool first = request_.method.empty();
        if (line.empty()) return first ? 0 : finish();  // before a request it means nothing (2.2)
        return first ? take_request_line(line) : take_field(line);
    }

private:
    // method SP request-target SP HTTP-version (3)
    int take_request_line(std::string_view line) {
        std::size_t method_end = line.find(' ');
        std::size_t target_end = line.find(' ', method_end + 1);
        if (target_end == std::string_view::npos) return 400;
        request_.method = line.substr(0, method_end);
        if (!is_token(request_.method)) return 400;
        int status = take_version(line.substr(target_end + 1));
        if (status != 0) return status;
        return take_target(line.substr(method_end + 1, target_end - method_end - 1));
    }

    int take_version(std::string_view version) {
        auto digit = [&](std::size_t at) { return version[at] >= '0' && version[at] <= '9'; };
        bool well_formed = version.size() == 8 && version.starts_with("HTTP/") && digit(5) &&
                           version[6] == '.' && digit(7);
        if (!well_formed) return 400;
        if (version[5] != '1') return 505;
        old_ = version[7] == '0';  // 1.2 would be read as the highest that we know (9110, 2.5)
        return 0;
    }

    int take_target(std::string_view target) {
        auto visible = [](char c) { return c > ' ' && c < 0x7f; };
        if (target.empty() || !std::all_of(target.begin(), target.end(), visible)) return 400;
        request_.path = path_of(target);
        // "*" is for OPTIONS (3.2.4), "host:port" for CONNECT (3.2.3). All others need a path.
        bool needs_path = request_.method != "OPTIONS" && request_.method != "CONNECT";
        return needs_path && request_.path.empty() ? 400 : 0;
    }

    // A space before the colon must be refused (5.1), and so may a line that begins with one, which
    // was once the rest of the line above (5.2). No token has a space, so both end here.
    int take_field(std::string_view line) {
        std::size_t colon = line.find(':');
        if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) return 400;
        std::string_view name = line.substr(0, colon);
        std::string_view value = trim(line.substr(colon + 1));
        if (std::any_of(value.begin(), value.end(), is_control)) return 400;  // 2.2; 9110, 5.5

        if (equal_ignoring_case(name, "Host")) return take_host(value);
        if (equal_ignoring_case(name, "Content-Length")) return take_length(value);
        if (equal_ignoring_case(name, "Connection")) return take_connection(value);
        if (equal_ignoring_case(name, "Transfer-Encoding")) return 501;  // where is its end?
        return 0;
    }

    // One, and none that could be taken for a path or a user (3.2). It may be empty.
    int take_host(std::string_view value) {
        if (host_seen_ || value.find_first_of(" \t/?#@\\\"<>") != value.npos) return 400;
        host_seen_ = true;
        return 0;
    }

    // Digits and nothing else (9110, 8.6). Two that agree could be taken for one; we need not.
    int take_length(std::string_view value) {
        const char* end = value.data() + value.size();
        auto [stop, error] = std::from_chars(value.data(), end, request_.body_size);
        if (length_seen_ || value.empty() || stop != end) return 400;
        length_seen_ = true;
        bool too_long = error != std::errc{} || request_.body_size > max_request_body;
        return too_long ? 413 : 0;
    }

    // "close, upgrade": a list, and not always in a line of its own (9110, 5.3).
    int take_connection(std::string_view list) {
        while (!list.empty()) {
            std::size_t comma = std::min(list.find(','), list.size());
            std::string_view option = trim(list.substr(0, comma));
            close_ |= equal_ignoring_case(option, "close");
            keep_alive_ |= equal_ignoring_case(option, "keep-alive");
            list.remove_prefix(std::min(comma + 1, list.size()));
        }
        return 0;
    }

    int finish() {
        if (!old_ && !host_seen_) return 400;  // 3.2
        request_.keep_alive = !close_ && (!old_ || keep_alive_);  // 9.3
        return 200;
    }

    Request request_;
    bool old_ = false;  // HTTP/1.0
    bool host_seen_ = false, length_seen_ = false;
    bool close_ = false, keep_alive_ = false;  // asked for
};

// Look for a request at the front of `bytes`. What is wrong is found as soon as its line is there.
inline Request parse_request(std::string_view bytes) {
    RequestParser parser;
    Request& request = parser.request();
    std::string_view head = bytes.substr(0, max_request_head);
    for (std::size_t begin = 0; request.status == 0;) {
        std::size_t end = head.find('\n', begin);
        if (end == std::string_view::npos) break;
        std::string_view line = head.substr(begin, end - begin);
        if (line.ends_with('\r')) line.remove_suffix(1);  // it may be missing (2.2): nc sends none
        request.status = parser.take(line);
        request.head_size = begin = end + 1;
    }
    bool full = head.size() == max_request_head;
    if (request.status == 0 && full) request.status = request.method.empty() ? 414 : 431;
    return request;
}

// ---- Bytes out ---------------------------------------------------------------------------------

// With the end of the line: what follows the version in an answer, and the body of one that has no
// other.
inline std::string_view status_line(int status) {
    if (status == 200) return "200 OK\r\n";
    if (status == 400) return "400 Bad Request\r\n";
    if (status == 404) return "404 Not Found\r\n";
    if (status == 405) return "405 Method Not Allowed\r\n";
    if (status == 413) return "413 Content Too Large\r\n";
    if (status == 414) return "414 URI Too Long\r\n";
    if (status == 431) return "431 Request Header Fields Too Large\r\n";
    if (status == 501) return "501 Not Implemented\r\n";
    if (status == 505) return "505 HTTP Version Not Supported\r\n";
    return "500 Internal Server Error\r\n";
}

// "Sun, 06 Nov 1994 08:49:37 GMT" (9110, 5.6.7).
inline std::string http_date(std::time_t time) {
    std::tm utc{};
    gmtime_r(&time, &utc);
    char text[64];
    return {text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc)};
}

// The head of an answer, into `out`. `fields` are further ones, each with its end of line.
inline void append_head(std::string& out, const Response& response, std::string_view date,
                        bool keep_alive, std::string_view fields = {}) {
    char length[20];
    char* length_end = std::to_chars(length, std::end(length), response.body.size()).ptr;
    out += "HTTP/1.1 ";
    out += status_line(response.status);
    out += "Date: ";
    out += date;
    out += "\r\nContent-Type: ";
    out += response.type;
    out += "\r\nContent-Length: ";
    out.append(length, length_end);
    out += keep_alive ? "\r\nConnection: keep-alive\r\n" : "\r\nConnection: close\r\n";
    out += fields;
    out += "\r\n";
}
