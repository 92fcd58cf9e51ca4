// http_fuzz.cpp: parse_request() and Body on any bytes, cut anywhere.
//
// Two programs that read the same bytes must see the same requests in them, or what is a body to
// one is a request to the other. So what http.h finds is compared with a second reading, which does
// not look for characters at all: abnf.h reads the grammar of the RFCs as it is printed there.

#include "07-evloop/http.h"
#include "abnf.h"
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
    "18446744073709551616|-1|Transfer-Encoding: chunked\r\n|transfer-encoding:|chunked|"
    "Connection: close\r\n|Connection: keep-alive\r\n|Connection: close, x\r\n|connection:|"
    "keep-alive|close|X: y\r\n| X: y\r\n|X : y\r\n|hello|[::1]|[v1.a]|[|]|::|ffff|127.0.0.1|%41|%|"
    "a:80|@|#|GET http://a/b HTTP/1.1\r\n|POST / HTTP/1.1\r\nHost: a\r\n|0\r\n\r\n|5\r\nhello\r\n|"
    "5\r\n|;a=b|fffff\r\n|00000000000000000001|Transfer-Encoding: chunked\r\n\r\n|"
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    '|');

std::string next_word(Script& script) {
    std::uint32_t choice = script.number(1);
    if (choice >= 240) return std::string(script.bytes(choice % 8 + 1));  // as they are
    if (choice >= 232) return std::string(script.number(2) % 9000, 'y');
    return words[choice % words.size()];
}

// ---- What a right server reads -----------------------------------------------------------------

// Of RFC 3986, 9110 and 9112; with the limits of this server, and where it is stricter than it
// would have to be: no empty host in an absolute form, one Content-Length only, no coding but
// "chunked".
const Grammar grammar(R"abnf(
    ALPHA = %x41-5A / %x61-7A
    DIGIT = %x30-39
    HEXDIG = DIGIT / "A" / "B" / "C" / "D" / "E" / "F"
    OWS = *( %x20 / %x09 )
    tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~" / DIGIT / ALPHA
    token = 1*tchar
    field-char = %x09 / %x20-7E / %x80-FF
    field-line = token ":" *field-char

    unreserved = ALPHA / DIGIT / "-" / "." / "_" / "~"
    sub-delims = "!" / "$" / "&" / "'" / "(" / ")" / "*" / "+" / "," / ";" / "="
    pct-encoded = "%" HEXDIG HEXDIG
    pchar = unreserved / pct-encoded / sub-delims / ":" / "@"
    absolute-path = 1*( "/" *pchar )
    query = *( pchar / "/" / "?" )

    dec-octet = "25" %x30-35 / "2" %x30-34 DIGIT / "1" DIGIT DIGIT / %x31-39 DIGIT / DIGIT
    IPv4address = dec-octet "." dec-octet "." dec-octet "." dec-octet
    h16 = 1*4HEXDIG
    ls32 = h16 ":" h16 / IPv4address
    IPv6address = 6( h16 ":" ) ls32 / "::" 5( h16 ":" ) ls32 / [ h16 ] "::" 4( h16 ":" ) ls32 / [ *1( h16 ":" ) h16 ] "::" 3( h16 ":" ) ls32 / [ *2( h16 ":" ) h16 ] "::" 2( h16 ":" ) ls32 / [ *3( h16 ":" ) h16 ] "::" h16 ":" ls32 / [ *4( h16 ":" ) h16 ] "::" ls32 / [ *5( h16 ":" ) h16 ] "::" h16 / [ *6( h16 ":" ) h16 ] "::"
    IPvFuture = "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" )
    IP-literal = "[" ( IPv6address / IPvFuture ) "]"
    reg-name = *( unreserved / pct-encoded / sub-delims )
    named = 1*( unreserved / pct-encoded / sub-delims )
    Host = ( IP-literal / reg-name ) [ ":" *DIGIT ]

    HTTP-version = %x48 %x54 %x54 %x50 "/1." DIGIT
    origin-form = absolute-path [ "?" query ]
    absolute-form = "http://" ( IP-literal / named ) [ ":" *DIGIT ] [ absolute-path ] [ "?" query ]
    authority-form = ( IP-literal / reg-name ) ":" 1*DIGIT

    codings-begun = *( "," / OWS ) [ "chunked" *( "," / OWS ) ]
    codings = *( "," / OWS ) "chunked" *( "," / OWS )
    asks-close = *( *field-char "," ) OWS "close" OWS *( "," *field-char )
    asks-keep-alive = *( *field-char "," ) OWS "keep-alive" OWS *( "," *field-char )
    Content-Length = 1*DIGIT

    chunk-line = 1*HEXDIG [ OWS ";" *field-char ]
)abnf");

std::string lower_case(std::string text) {
    for (char& c : text)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
    return text;
}

// Of digits without a doubt; a number that is too large stays too large.
std::uint64_t number_of(const std::string& digits, unsigned base) {
    std::uint64_t number = 0;
    for (char c : digits) {
        unsigned digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
        number = std::min<std::uint64_t>(number * base + digit, 1ull << 40);
    }
    return number;
}

constexpr std::uint64_t most = 1'048'576;  // bytes of a body

// All lines of a head first, and then what they say.
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
    bool chunked = false, keep_alive = false;

private:
    Verdict take_line() {
        if (method.empty() && line_.empty()) return more;
        if (method.empty()) return first_line() ? more : refused;
        if (!line_.empty()) return field() ? more : refused;
        bool old = version_ == "HTTP/1.0";
        if (!old && hosts_.size() != 1) return refused;
        chunked = grammar.matches("codings", codings_);
        if (coded_ && (!chunked || old || !lengths_.empty())) return refused;
        bool asked = grammar.matches("asks-keep-alive", options_);
        bool unwanted = grammar.matches("asks-close", options_);
        keep_alive = !unwanted && (asked || !old);
        return request;
    }

    bool first_line() {
        std::vector<std::string> parts = split(line_, ' ');
        if (parts.size() != 3 || !grammar.matches("token", parts[0])) return false;
        method = parts[0];
        version_ = parts[2];
        std::string target = parts[1];
        if (!grammar.matches("HTTP-version", version_)) return false;
        if (method == "CONNECT") return grammar.matches("authority-form", target);
        if (method == "OPTIONS" && target == "*") return true;
        if (grammar.matches("absolute-form", target)) {
            target = target.substr(std::min(target.find_first_of("/?", 7), target.size()));
            if (target.empty() || target[0] == '?') target.insert(0, "/");
        } else if (!grammar.matches("origin-form", target)) {
            return false;
        }
        path = split(target, '?')[0];
        return true;
    }

    bool field() {
        if (!grammar.matches("field-line", line_)) return false;
        std::size_t colon = line_.find(':');
        std::string name = lower_case(line_.substr(0, colon));
        std::string value = line_.substr(colon + 1);
        while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.pop_back();
        while (!value.empty() && (value[0] == ' ' || value[0] == '\t')) value.erase(0, 1);

        if (name == "connection") options_ += "," + value;
        if (name == "host") {
            hosts_.push_back(value);
            return hosts_.size() == 1 && grammar.matches("Host", value);
        }
        if (name == "transfer-encoding") {
            coded_ = true;
            codings_ += (codings_.empty() ? "" : ",") + value;
            return grammar.matches("codings-begun", codings_);
        }
        if (name == "content-length") {
            lengths_.push_back(value);
            if (lengths_.size() != 1 || !grammar.matches("Content-Length", value)) return false;
            body = number_of(value, 10);
            return body <= most;
        }
        return true;
    }

    std::string line_, version_;
    std::string options_, codings_;
    std::vector<std::string> hosts_, lengths_;
    bool coded_ = false;
};

// A body in chunks: `end` is where it ends, if it has come that far.
struct ReferenceChunks {
    explicit ReferenceChunks(std::string_view bytes) {
        while (!over && !broken && take_chunk(bytes)) {}
    }

    bool over = false, broken = false;
    std::size_t end = 0;

private:
    // One chunk, or the lines behind the last one. False if it is not all there.
    bool take_chunk(std::string_view bytes) {
        std::string line;
        if (!take_line(bytes, line)) return false;
        if (!grammar.matches("chunk-line", line)) return fail();
        std::uint64_t size = number_of(line.substr(0, line.find_first_of("; \t")), 16);
        sent_ += size + line.size() + 2;
        if (sent_ > most) return fail();
        if (size == 0) return take_trailer(bytes);
        if (bytes.size() - end < size) return false;
        end += size;
        std::string_view behind = bytes.substr(end, 2);
        if (behind != std::string_view("\r\n").substr(0, behind.size())) return fail();
        end += behind.size();
        sent_ += 2;
        return behind.size() == 2;
    }

    bool take_trailer(std::string_view bytes) {
        for (std::string line; take_line(bytes, line);) {
            sent_ += line.size() + 2;
            if (!line.empty() && !grammar.matches("field-line", line)) return fail();
            if (line.empty()) over = true;
            if (over) return true;
        }
        return false;
    }

    bool take_line(std::string_view bytes, std::string& line) {
        std::string_view rest = bytes.substr(end, 4096);
        std::size_t size = rest.find("\r\n");
        if (size == rest.npos) return rest.size() < 4096 ? false : fail();
        line = rest.substr(0, size);
        end += size + 2;
        return true;
    }

    bool fail() {
        broken = true;
        return false;
    }

    std::uint64_t sent_ = 0;
};

// ---- What must hold ----------------------------------------------------------------------------

bool same(const Request& a, const Request& b) {
    return a.status == b.status && a.method == b.method && a.path == b.path &&
           a.head_size == b.head_size && a.body_size == b.body_size && a.chunked == b.chunked &&
           a.keep_alive == b.keep_alive;
}

void check_against_reference(std::string_view bytes, const Request& found) {
    Reference9112 reference(bytes);
    if (reference.verdict == Reference9112::more) {
        require(found.status == 0, "decided, although it may become a request");
    } else if (reference.verdict == Reference9112::refused) {
        Request whole = parse_request(std::string(bytes) + "\r\n\r\n");
        require(whole.status >= 400, "not refused");
        require(!status_line(whole.status).starts_with("500"), "refused with a known status");
    } else {
        require(found.status == 200, "a request that is not taken for one");
        require(found.method == reference.method, "the method");
        require(found.path == reference.path, "the path");
        require(found.head_size == reference.head, "where the head ends");
        require(found.body_size == reference.body, "how long the body is");
        require(found.chunked == reference.chunked, "whether it comes in chunks");
        require(found.keep_alive == reference.keep_alive, "whether the connection stays");
    }
}

// How much of `bytes` a body takes when they come in parts that end at `cuts`.
std::size_t take_in_parts(Body& body, std::string_view bytes,
                          const std::vector<std::size_t>& cuts) {
    std::size_t taken = 0;
    for (std::size_t cut : cuts)
        if (cut > taken && cut <= bytes.size())
            taken += body.take(Exact(bytes.substr(taken, cut - taken)).view());
    return taken + body.take(Exact(bytes.substr(taken)).view());
}

void check_chunks(const Request& request, std::string_view bytes, std::vector<std::size_t> cuts) {
    ReferenceChunks reference(bytes);
    Body body(request);
    std::size_t taken = take_in_parts(body, bytes, cuts);
    require(body.over() == reference.over, "whether all of the body has come");
    require(!body.over() || taken == reference.end, "where the body ends");
    if (reference.broken) body.take(std::string(bytes.substr(taken)) + "\r\n");
    require(body.broken() == reference.broken, "whether the body can be read");
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
    if (stream.bytes.size() <= 100) stream.cut_everywhere();
    // One request behind the other, as a server reads them.
    std::string_view rest = stream.bytes;
    for (;;) {
        Exact copy(rest);
        Request request = parse_request(copy.view());
        check_against_reference(rest, request);
        if (request.status != 200) break;
        rest.remove_prefix(request.head_size);
        if (request.chunked) check_chunks(request, rest, stream.cuts);
        Body body(request);
        rest.remove_prefix(body.take(rest));
        if (!body.over()) break;
    }
    check_cuts(stream.bytes, stream.cuts);
    return 0;
}
