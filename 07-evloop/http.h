// http.h: as much of HTTP/1.1 as a server of fixed pages needs. Bytes in, bytes out; no sockets.
//
//     GET /bytes/5 HTTP/1.1      method, target and version, with one space between them
//     Host: 127.0.0.1:9080       fields, their names in any case
//                                an empty line ends the head; Content-Length bytes may follow it
//
// Where a request ends must not be a matter of opinion: if a proxy sees another end than we do,
// what is a body to one of us is a request to the other. So where there is a grammar, we read by
// it, and RFC 9112 wants much to be refused. A body may come in chunks that say how long they are.
//
// Numbers in brackets are sections of RFC 9112; "9110, 8.6" is one of RFC 9110.

#pragma once

#include "uri.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

constexpr std::size_t max_request_head = 8 << 10;  // bytes; at least 8000 for its first line (3)
constexpr std::uint64_t max_request_body = 1 << 20;  // bytes; of a chunked one, all that is sent
constexpr std::size_t max_chunk_line = 4 << 10;  // bytes: a size, with what may be behind it

struct Request {
    // 0: what is there may become a request. 200: its head is at the front of the bytes. Else it
    // never will be: this is the answer, after which the connection is closed.
    int status = 0;
    std::string_view method;  // a part of what was parsed, as is the path
    std::string_view path;  // without the query; "*" and CONNECT have none. See plain_path()
    std::size_t head_size = 0;  // bytes, with the empty line
    std::uint64_t body_size = 0;  // bytes that come behind it,
    bool chunked = false;  // or chunks, until an empty one
    bool keep_alive = false;  // the client does not want the connection closed
};

struct Response {
    int status;
    std::string_view type;  // of the body
    std::string_view body;
};

// ---- Words and characters ----------------------------------------------------------------------

inline bool is_control(unsigned char c) { return (c < ' ' && c != '\t') || c == 0x7f; }

// Methods and the names of fields are tokens (9110, 5.6.2).
inline bool is_token(std::string_view word) {
    auto allowed = [](char c) { return is_alphanumeric(c) || is_one_of(c, "!#$%&'*+-.^_`|~"); };
    return !word.empty() && std::ranges::all_of(word, allowed);
}

inline std::string_view trim(std::string_view text) {
    std::size_t first = text.find_first_not_of(" \t");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// "a, b" is a list (9110, 5.6.1). What is between two commas may be nothing, which does not count.
template <class Visit>
void each_element(std::string_view list, Visit visit) {
    while (!list.empty()) {
        std::size_t comma = std::min(list.find(','), list.size());
        std::string_view element = trim(list.substr(0, comma));
        if (!element.empty()) visit(element);
        list.remove_prefix(std::min(comma + 1, list.size()));
    }
}

// A line of the head, or of what may follow the last chunk: name ":" value (5). No blank may be
// before the colon (5.1), nor where the line begins: it was once the rest of the line above (5.2).
struct Field {
    std::string_view name, value;
};

inline std::optional<Field> parse_field(std::string_view line) {
    std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return {};
    Field field{line.substr(0, colon), trim(line.substr(colon + 1))};
    if (!is_token(field.name)) return {};
    if (std::ranges::any_of(field.value, is_control)) return {};  // 2.2; 9110, 5.5
    return field;
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

    // "*" is for OPTIONS (3.2.4), "host:port" for CONNECT (3.2.3). All others name a resource.
    int take_target(std::string_view target) {
        if (request_.method == "CONNECT") {
            auto authority = parse_authority(target);
            return authority && !authority->port.value_or("").empty() ? 0 : 400;  // 9110, 9.3.6
        }
        if (request_.method == "OPTIONS" && target == "*") return 0;
        request_.path = path_of(target);
        return request_.path.empty() ? 400 : 0;
    }

    int take_field(std::string_view line) {
        std::optional<Field> field = parse_field(line);
        if (!field) return 400;
        auto is = [&](std::string_view name) { return equal_ignoring_case(field->name, name); };
        if (is("Host")) return take_host(field->value);
        if (is("Content-Length")) return take_length(field->value);
        if (is("Transfer-Encoding")) return take_codings(field->value);
        if (is("Connection")) return take_connection(field->value);
        return 0;
    }

    // One, and it may be empty (3.2).
    int take_host(std::string_view value) {
        if (host_seen_ || !parse_authority(value)) return 400;
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

    // What was done to the body, in this order. Only "chunked" tells where it ends, so it must be
    // the last (6.3), and it takes no parameters (7.1).
    int take_codings(std::string_view list) {
        coded_ = true;
        bool follows = false;  // something behind it
        each_element(list, [&](std::string_view coding) {
            follows |= request_.chunked;
            if (equal_ignoring_case(coding, "chunked")) request_.chunked = true;
            else unknown_coding_ = true;
        });
        return follows ? 400 : 0;
    }

    // "close, upgrade": a list, and not always in a line of its own (9110, 5.3).
    int take_connection(std::string_view list) {
        each_element(list, [&](std::string_view option) {
            close_ |= equal_ignoring_case(option, "close");
            keep_alive_ |= equal_ignoring_case(option, "keep-alive");
        });
        return 0;
    }

    int finish() {
        if (!old_ && !host_seen_) return 400;  // 3.2
        // A body with two ends, or none that is certain, is how a request is smuggled (6.1, 6.3).
        if (coded_ && (old_ || length_seen_ || !request_.chunked)) return 400;
        if (unknown_coding_) return 501;  // 6.1
        request_.keep_alive = !close_ && (!old_ || keep_alive_);  // 9.3
        return 200;
    }

    Request request_;
    bool old_ = false;  // HTTP/1.0
    bool host_seen_ = false, length_seen_ = false;
    bool coded_ = false, unknown_coding_ = false;  // by Transfer-Encoding
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

// Finds the end of a body while it comes. Nobody here wants the bytes: memory must not follow a
// length that was only claimed, and so they are counted and forgotten.
class Body {
public:
    Body() = default;  // none
    explicit Body(const Request& request) : chunked_(request.chunked), left_(request.body_size) {
        next_ = chunked_ ? Part::size : left_ != 0 ? Part::data : Part::nothing;
    }

    bool over() const { return next_ == Part::nothing; }
    bool broken() const { return broken_; }  // no end of it will ever be found

    // How many bytes at the front of `bytes` are taken. What is left of an unfinished body is the
    // beginning of a line: it comes again, with more behind it.
    std::size_t take(std::string_view bytes) {
        std::size_t taken = 0;
        for (std::size_t n = 1; n != 0 && !over() && !broken_; taken += n)
            n = next_ == Part::data ? take_data(bytes.substr(taken))
                                    : take_line(bytes.substr(taken));
        return taken;
    }

private:
    enum class Part { size, data, data_end, trailer, nothing };

    std::size_t take_data(std::string_view bytes) {
        std::size_t n = std::min<std::uint64_t>(left_, bytes.size());
        left_ -= n;
        if (left_ == 0) next_ = chunked_ ? Part::data_end : Part::nothing;
        return n;
    }

    // Here CR LF ends a line and nothing else does: only of a head is more to be borne with (2.2).
    std::size_t take_line(std::string_view bytes) {
        std::size_t size = bytes.substr(0, max_chunk_line).find("\r\n");
        std::size_t limit = next_ == Part::data_end ? 2 : max_chunk_line;
        if (size == std::string_view::npos) {
            broken_ = bytes.size() >= limit;
            return 0;
        }
        sent_ += size + 2;
        broken_ = !understand(bytes.substr(0, size)) || sent_ > max_request_body;
        return size + 2;
    }

    bool understand(std::string_view line) {
        if (next_ == Part::size) return take_size(line);
        if (next_ == Part::trailer && !line.empty()) return parse_field(line).has_value();
        next_ = next_ == Part::trailer ? Part::nothing : Part::size;
        return line.empty();
    }

    // In hexadecimal digits. Behind it there may be extensions, which mean nothing to us (7.1.1);
    // but no control character in them may look like an end of the line to anyone.
    bool take_size(std::string_view line) {
        auto [stop, error] = std::from_chars(line.data(), line.data() + line.size(), left_, 16);
        std::string_view extensions = line.substr(stop - line.data());
        if (error != std::errc{} || left_ > max_request_body) return false;
        sent_ += left_;
        next_ = left_ == 0 ? Part::trailer : Part::data;
        return extensions.empty() ||
               (trim(extensions).starts_with(';') && std::ranges::none_of(extensions, is_control));
    }

    bool chunked_ = false;
    bool broken_ = false;
    Part next_ = Part::nothing;
    std::uint64_t left_ = 0;  // bytes of a chunk, or of the whole
    std::uint64_t sent_ = 0;  // bytes of the chunks until now, and what is between them
};

// ---- Bytes out ---------------------------------------------------------------------------------

// With the end of the line: what follows the version in an answer, and the body of one that has no
// other.
inline std::string_view status_line(int status) {
    if (status == 200) return "200 OK\r\n";
    if (status == 204) return "204 No Content\r\n";
    if (status == 400) return "400 Bad Request\r\n";
    if (status == 404) return "404 Not Found\r\n";
    if (status == 405) return "405 Method Not Allowed\r\n";
    if (status == 413) return "413 Content Too Large\r\n";
    if (status == 414) return "414 URI Too Long\r\n";
    if (status == 431) return "431 Request Header Fields Too Large\r\n";
    if (status == 501) return "501 Not Implemented\r\n";
    if (status == 503) return "503 Service Unavailable\r\n";
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
    out += "HTTP/1.1 ";
    out += status_line(response.status);
    out += "Date: ";
    out += date;
    if (response.status != 204) {  // it has no content, and must not say how long (9110, 8.6)
        char length[20];
        char* length_end = std::to_chars(length, std::end(length), response.body.size()).ptr;
        out += "\r\nContent-Type: ";
        out += response.type;
        out += "\r\nContent-Length: ";
        out.append(length, length_end);
    }
    out += keep_alive ? "\r\nConnection: keep-alive\r\n" : "\r\nConnection: close\r\n";
    out += fields;
    out += "\r\n";
}
