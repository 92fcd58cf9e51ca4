// http_fuzz.cpp: parse_request() on any bytes, cut anywhere.
//
// Two programs that read the same bytes must see the same requests in them, or what is a body to
// one is a request to the other. So what http.h finds is compared with a second reading of the RFC.

#include "07-evloop/http.h"
#include "script.h"

#include <optional>
#include <vector>

namespace {

constexpr std::size_t longest = 10'000;  // bytes of a stream: the head of a request may have 8192

// ---- What is sent ------------------------------------------------------------------------------

std::vector<std::string> split(const std::string& text, char at) {
    std::vector<std::string> parts(1);
    for (char c : text)
        if (c == at) parts.emplace_back();
        else parts.back() += c;
    return parts;
}

// Whole lines make requests likely, parts of lines make every line possible.
const std::vector<std::string> words = split(
    "GET / HTTP/1.1\r\nHost: a\r\n|GET / HTTP/1.1\r\n|Host: a\r\n|\r\n|\n|\r| |\t|:|,|/|?|x|"
    "GET |HEAD |CONNECT |OPTIONS * |POST /a/b?c=d |http://|HTTP://h|HTTP/1.0|HTTP/2.0|HTTP/1.|"
    "host:|Content-Length: 5\r\n|Content-Length: +5\r\n|content-length:|0|1|1048576|1048577|"
    "18446744073709551616|-1|Transfer-Encoding: chunked\r\n|transfer-encoding:|"
    "Connection: close\r\n|Connection: keep-alive\r\n|Connection: close, x\r\n|connection:|"
    "keep-alive|close|X: y\r\n| X: y\r\n|X : y\r\n|hello",
    '|');

std::string next_word(Script& script) {
    std::uint32_t choice = script.number(1);
    if (choice >= 240) return std::string(script.bytes(choice % 8 + 1));  // as they are
    if (choice >= 232) return std::string(script.number(2) % 9000, 'y');
    return words[choice % words.size()];
}

// ---- What a right server reads -----------------------------------------------------------------

std::string lower_case(std::string text) {
    for (char& c : text)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
    return text;
}

std::string without_blanks_around(std::string text) {
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.pop_back();
    while (!text.empty() && (text[0] == ' ' || text[0] == '\t')) text.erase(0, 1);
    return text;
}

bool only(const std::string& text, const char* characters) {
    return !text.empty() && text.find_first_not_of(characters) == std::string::npos;
}

constexpr const char* digits = "0123456789";
constexpr const char* token_characters =
    "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

// RFC 9112 once more: all lines of a head first, and then what they say.
class Reference9112 {
public:
    enum Verdict { more, refused, request };

    explicit Reference9112(std::string_view bytes) {
        for (std::size_t i = 0; verdict == more && i < bytes.size(); ++i) {
            if (bytes[i] != '\n') {
                line_ += bytes[i];
            } else {
                if (!line_.empty() && line_.back() == '\r') line_.pop_back();
                verdict = take_line();
                line_.clear();
                head = i + 1;
            }
            if (verdict == more && i + 1 == 8192) verdict = refused;
        }
    }

    Verdict verdict = more;
    std::string method, path;
    std::size_t head = 0;
    std::uint64_t body = 0;
    bool keep_alive = false;

private:
    Verdict take_line() {
        if (method.empty() && line_.empty()) return more;
        if (method.empty()) return first_line() ? more : refused;
        if (!line_.empty()) return field() ? more : refused;
        if (version_ != "HTTP/1.0" && hosts_ != 1) return refused;
        bool asked = options_.find(",keep-alive,") != std::string::npos;
        bool unwanted = options_.find(",close,") != std::string::npos;
        keep_alive = !unwanted && (asked || version_ != "HTTP/1.0");
        return request;
    }

    bool first_line() {
        std::vector<std::string> parts = split(line_, ' ');
        if (parts.size() != 3 || !only(parts[0], token_characters)) return false;
        method = parts[0];
        version_ = parts[2];
        if (version_.size() != 8 || version_.rfind("HTTP/1.", 0) != 0) return false;
        if (version_[7] < '0' || version_[7] > '9') return false;

        std::string target = parts[1];
        if (target.empty()) return false;
        for (unsigned char c : target)
            if (c < 0x21 || c > 0x7e) return false;
        if (lower_case(target).rfind("http://", 0) == 0) {
            target.erase(0, 7);
            std::size_t host = 0;
            while (host < target.size() && target[host] != '/' && target[host] != '?') ++host;
            if (host == 0) target = "*";
            else target.erase(0, host);
            if (target.empty() || target[0] == '?') target.insert(0, "/");
        }
        if (target[0] == '/') path = split(target, '?')[0];
        return !path.empty() || method == "OPTIONS" || method == "CONNECT";
    }

    bool field() {
        std::size_t colon = line_.find(':');
        if (colon == std::string::npos || !only(line_.substr(0, colon), token_characters))
            return false;
        std::string name = lower_case(line_.substr(0, colon));
        std::string value = without_blanks_around(line_.substr(colon + 1));
        for (unsigned char c : value)
            if ((c < 0x20 && c != '\t') || c == 0x7f) return false;

        if (name == "host") {
            ++hosts_;
            return hosts_ == 1 && value.find_first_of(" \t/?#@\\\"<>") == std::string::npos;
        }
        if (name == "transfer-encoding") return false;
        if (name == "connection")
            for (const std::string& option : split(value, ','))
                options_ += lower_case(without_blanks_around(option)) + ",";
        return name != "content-length" || (++lengths_ == 1 && length(value));
    }

    bool length(std::string value) {
        if (!only(value, digits)) return false;
        value.erase(0, std::min(value.find_first_not_of('0'), value.size()));
        if (value.size() > 7) return false;
        body = value.empty() ? 0 : std::stoul(value);
        return body <= 1'048'576;
    }

    std::string line_, version_;
    std::string options_ = ",";
    int hosts_ = 0, lengths_ = 0;
};

// ---- What must hold ----------------------------------------------------------------------------

bool same(const Request& a, const Request& b) {
    return a.status == b.status && a.method == b.method && a.path == b.path &&
           a.head_size == b.head_size && a.body_size == b.body_size && a.keep_alive == b.keep_alive;
}

void check_against_reference(std::string_view bytes, const Request& found) {
    Reference9112 reference(bytes);
    if (reference.verdict == Reference9112::more) {
        require(found.status == 0, "decided, although it may become a request");
    } else if (reference.verdict == Reference9112::refused) {
        require(found.status >= 400, "not refused");
        require(!status_line(found.status).starts_with("500"), "refused with a known status");
    } else {
        require(found.status == 200, "a request that is not taken for one");
        require(found.method == reference.method, "the method");
        require(found.path == reference.path, "the path");
        require(found.head_size == reference.head, "where the head ends");
        require(found.body_size == reference.body, "where the body ends");
        require(found.keep_alive == reference.keep_alive, "whether the connection stays");
    }
}

// However the bytes come in, the decision is the same: nothing is decided too early, and what is
// decided stays.
void check_cuts(std::string_view bytes, const std::vector<std::size_t>& cuts) {
    std::optional<Request> decided;
    std::vector<Exact> copies;
    for (std::size_t cut : cuts) {
        Request request = parse_request(copies.emplace_back(bytes.substr(0, cut)).view());
        if (decided) require(same(request, *decided), "what is decided stays decided");
        if (request.status != 0) decided = request;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    CutStream stream(Script(data, size), longest, next_word);
    // One request behind the other, as a server reads them.
    std::string_view rest = stream.bytes;
    for (;;) {
        Exact copy(rest);
        Request request = parse_request(copy.view());
        check_against_reference(rest, request);
        if (request.status != 200) break;
        rest.remove_prefix(request.head_size);
        rest.remove_prefix(std::min<std::size_t>(request.body_size, rest.size()));
    }
    if (stream.bytes.size() <= 100) stream.cut_everywhere();
    check_cuts(stream.bytes, stream.cuts);
    return 0;
}
