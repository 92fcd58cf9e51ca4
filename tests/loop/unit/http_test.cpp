// HTTP: the heads of requests and answers, bytes in, bytes out. For bodies see body_test.cpp.

#include "07-evloop/http.h"

#include <gtest/gtest.h>
#include <ostream>
#include <string>
#include <vector>

namespace {

int status(std::string_view bytes) { return parse_request(bytes).status; }

// A request with a Host and these further fields, each with its end of line.
std::string get(std::string_view fields = "") {
    return "GET / HTTP/1.1\r\nHost: a\r\n" + std::string(fields) + "\r\n";
}

// A request whose head has exactly `size` bytes.
std::string head_of(std::size_t size) {
    std::string padding(size - get("X: \r\n").size(), 'x');
    return get("X: " + padding + "\r\n");
}

struct Case {
    std::string bytes;
    int status;
};

// All of a suite: testing::Values() would be slow to compile.
auto cases(const std::vector<Case>& all) { return testing::ValuesIn(all); }

void PrintTo(const Case& c, std::ostream* out) { *out << testing::PrintToString(c.bytes); }

}  // namespace

TEST(HttpTest, PartsOfARequest) {
    std::string bytes = "HEAD /a/b?c=d HTTP/1.1\r\nhOST:a:1\r\nContent-Length: 3 \r\n\r\nxyzGET";
    Request request = parse_request(bytes);
    EXPECT_EQ(request.status, 200);
    EXPECT_EQ(request.method, "HEAD");
    EXPECT_EQ(request.method.data(), bytes.data()) << "no copy";
    EXPECT_EQ(request.path, "/a/b");
    EXPECT_EQ(request.head_size, bytes.size() - 6);
    EXPECT_EQ(request.body_size, 3u);
    EXPECT_TRUE(request.keep_alive);
}

TEST(HttpTest, BareLineFeedsAndEmptyLinesBeforeTheRequest) {
    Request request = parse_request("\r\n\nGET /x HTTP/1.1\nHost: a\n\nGET");
    EXPECT_EQ(request.status, 200);
    EXPECT_EQ(request.path, "/x");
    EXPECT_EQ(request.head_size, 28u);
}

TEST(HttpTest, KeepAlive) {
    auto keep = [](std::string_view version, std::string_view fields) {
        return parse_request("GET / HTTP/" + std::string(version) + "\r\nHost: a\r\n" +
                             std::string(fields) + "\r\n")
            .keep_alive;
    };
    EXPECT_TRUE(keep("1.1", ""));
    EXPECT_TRUE(keep("1.2", ""));
    EXPECT_TRUE(keep("1.1", "Connection: keep-alive\r\n"));
    EXPECT_TRUE(keep("1.1", "Connection: upgrade\r\n"));
    EXPECT_TRUE(keep("1.1", "Connection:\r\n"));
    EXPECT_TRUE(keep("1.1", "Connection: closed\r\n"));
    EXPECT_FALSE(keep("1.1", "Connection: close\r\n"));
    EXPECT_FALSE(keep("1.1", "connection:CLOSE\r\n"));
    EXPECT_FALSE(keep("1.1", "Connection: a , close,b\r\n"));
    EXPECT_FALSE(keep("1.1", "Connection: a\r\nConnection: close\r\nConnection: b\r\n"));
    EXPECT_FALSE(keep("1.1", "Connection: keep-alive, close\r\n"));
    EXPECT_FALSE(keep("1.0", ""));
    EXPECT_TRUE(keep("1.0", "Connection: Keep-Alive\r\n"));
    EXPECT_TRUE(keep("1.0", "Connection:,, x,keep-alive,\r\n"));
    EXPECT_FALSE(keep("1.0", "Connection: keep-alive\r\nConnection: close\r\n"));
}

class HttpCases : public testing::TestWithParam<Case> {};

// The verdict is the same wherever the bytes are split, and once it is there, no byte changes it.
TEST_P(HttpCases, StatusAtEveryByte) {
    const auto& [bytes, expected] = GetParam();
    std::size_t known = bytes.size();
    for (std::size_t n = 0; n <= bytes.size(); ++n) {
        std::string part = bytes.substr(0, n);  // a copy: a sanitizer sees a look behind its end
        int now = status(part);
        known = now != 0 ? std::min(known, n) : known;
        EXPECT_EQ(now, n < known ? 0 : expected) << "after " << n << " bytes";
    }
    Request request = parse_request(bytes);
    EXPECT_EQ(request.status, expected);
    EXPECT_EQ(request.keep_alive && expected != 200, false) << "what is refused is closed";
}

INSTANTIATE_TEST_SUITE_P(Good, HttpCases,
                         cases({{get(), 200},
                                {"GET / HTTP/1.0\r\n\r\n", 200},
                                {"OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                {get("Transfer-Encoding: chunked\r\n"), 200},
                                {get("transfer-encoding:\tCHUNKED \r\n"), 200},
                                {get("Transfer-Encoding: ,chunked,\r\n"), 200},
                                {"GET / HTTP/1.0\r\nHost: a\r\n\r\n", 200},
                                {"GET / HTTP/1.9\r\nHost: a\r\n\r\n", 200},
                                {"GET / HTTP/1.1\r\nHost:\r\n\r\n", 200},
                                {"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200},
                                {"GET http://h HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                {"M-x!# / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                {get("X:\r\n"), 200},
                                {get("X: a\tb \r\n"), 200},
                                {get("X: caf\xc3\xa9\r\n"), 200},
                                {get("X: a: b\r\n"), 200},
                                {get("Content-Length: 0\r\n"), 200},
                                {get("Content-Length:\t0001048576 \r\n"), 200}}));

INSTANTIATE_TEST_SUITE_P(BadRequestLines, HttpCases,
                         cases({{"GET /\r\n", 400},
                                {"GET\r\n", 400},
                                {"\x16\x03\x01\n", 400},
                                {" GET / HTTP/1.1\r\n", 400},
                                {"GET  / HTTP/1.1\r\n", 400},
                                {"GET /  HTTP/1.1\r\n", 400},
                                {"GET / HTTP/1.1 \r\n", 400},
                                {"GET\t/\tHTTP/1.1\r\n", 400},
                                {"GET / b HTTP/1.1\r\n", 400},
                                {"GET /\tb HTTP/1.1\r\n", 400},
                                {"GET /\r HTTP/1.1\r\n", 400},
                                {"GET /caf\xc3\xa9 HTTP/1.1\r\n", 400},
                                {"GET a HTTP/1.1\r\n", 400},
                                {"GET * HTTP/1.1\r\n", 400},
                                {"GET /a|b HTTP/1.1\r\n", 400},
                                {"GET /#a HTTP/1.1\r\n", 400},
                                {"GET /%4 HTTP/1.1\r\n", 400},
                                {"GET http:///a HTTP/1.1\r\n", 400},
                                {"GET http://:80/ HTTP/1.1\r\n", 400},
                                {"GET http://a:b/ HTTP/1.1\r\n", 400},
                                {"OPTIONS a HTTP/1.1\r\n", 400},
                                {"OPTIONS ** HTTP/1.1\r\n", 400},
                                {"CONNECT / HTTP/1.1\r\n", 400},
                                {"CONNECT a HTTP/1.1\r\n", 400},
                                {"CONNECT a: HTTP/1.1\r\n", 400},
                                {"OPTIONS  HTTP/1.1\r\n", 400},
                                {"G(T / HTTP/1.1\r\n", 400},
                                {"GET / HTTP/1.1\r\r\n", 400},
                                {"GET / http/1.1\r\n", 400},
                                {"GET / HTTP/1\r\n", 400},
                                {"GET / HTTP/1.10\r\n", 400},
                                {"GET / HTTP/1,1\r\n", 400},
                                {"GET / HTTP/x.1\r\n", 400},
                                {"GET / HTTP/1.x\r\n", 400},
                                {"GET / HTTP/2.0\r\n", 505},
                                {"PRI * HTTP/2.0\r\n", 505},
                                {"GET / HTTP/0.9\r\n", 505}}));

INSTANTIATE_TEST_SUITE_P(BadFields, HttpCases,
                         cases({{"GET / HTTP/1.1\r\n\r\n", 400},
                                {get("Host: a\r\n"), 400},
                                {"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400},
                                {"GET / HTTP/1.1\r\nHost: a b\r\n", 400},
                                {"GET / HTTP/1.1\r\nHost: a/b\r\n", 400},
                                {"GET / HTTP/1.1\r\nHost: u@a\r\n", 400},
                                {"GET / HTTP/1.1\r\nHost: a:b\r\n", 400},
                                {"GET / HTTP/1.1\r\nHost: [::1\r\n", 400},
                                {"GET / HTTP/1.1\r\nHost: a|b\r\n", 400},
                                {"GET / HTTP/1.1\r\n Host: a\r\n", 400},
                                {get("X : a\r\n"), 400},
                                {get("X\t: a\r\n"), 400},
                                {get(": a\r\n"), 400},
                                {get("X\r\n"), 400},
                                {get("X: a\r\n b\r\n"), 400},
                                {get("X: a\r\n\tb: c\r\n"), 400},
                                {get("X(: a\r\n"), 400},
                                {get("X: a\rb\r\n"), 400},
                                {get(std::string("X: a\0b\r\n", 8)), 400},
                                {get("X: \x7f\r\n"), 400},
                                {get("X: \x1b[1m\r\n"), 400}}));

INSTANTIATE_TEST_SUITE_P(BadLengths, HttpCases,
                         cases({{get("Content-Length:\r\n"), 400},
                                {get("Content-Length: x\r\n"), 400},
                                {get("Content-Length: -1\r\n"), 400},
                                {get("Content-Length: +1\r\n"), 400},
                                {get("Content-Length: 0x1\r\n"), 400},
                                {get("Content-Length: 1 1\r\n"), 400},
                                {get("Content-Length: 1,1\r\n"), 400},
                                {get("Content-Length: 1\r\nContent-Length: 2\r\n"), 400},
                                {get("Content-Length: 1\r\ncontent-length: 1\r\n"), 400},
                                {get("Content-Length: 1048577\r\n"), 413},
                                {get("Content-Length: 18446744073709551616\r\n"), 413},
                                {get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400},
                                {get("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"),
                                 400}}));

INSTANTIATE_TEST_SUITE_P(
    BadCodings, HttpCases,
    cases({{get("Transfer-Encoding:\r\n"), 400},
           {get("Transfer-Encoding: identity\r\n"), 400},
           {get("Transfer-Encoding: xchunked\r\n"), 400},
           {get("Transfer-Encoding: \vchunked\r\n"), 400},
           {get("Transfer-Encoding : chunked\r\n"), 400},
           {get("Transfer-Encoding: chunked;q=1\r\n"), 400},
           {get("Transfer-Encoding: chunked, gzip\r\n"), 400},
           {get("Transfer-Encoding: chunked, chunked\r\n"), 400},
           {get("Transfer-Encoding: chunked\r\nTransfer-Encoding: a\r\n"), 400},
           {get("Transfer-Encoding: gzip, chunked\r\n"), 501},
           {get("Transfer-Encoding: a\r\nTransfer-Encoding: chunked\r\n"), 501},
           {"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400}}));

TEST(HttpTest, HeadLimitIsExact) {
    std::string longest = head_of(max_request_head);
    EXPECT_EQ(longest.size(), 8192u);
    EXPECT_EQ(status(longest), 200);
    EXPECT_EQ(parse_request(longest + "more").head_size, 8192u);
    EXPECT_EQ(status(longest.substr(0, 8191)), 0);
    EXPECT_EQ(status(head_of(8193)), 431);
    EXPECT_EQ(status(head_of(8193).substr(0, 8192)), 431) << "no end of it can come within 8 KiB";
    EXPECT_EQ(status(head_of(100'000)), 431);
}

TEST(HttpTest, LineLimitIsThatOfTheHead) {
    EXPECT_EQ(status("GET /" + std::string(8186, 'x')), 0);
    EXPECT_EQ(status("GET /" + std::string(8187, 'x')), 414);
    EXPECT_EQ(status(std::string(100'000, '\n')), 414) << "nor do empty lines go on for ever";
    EXPECT_EQ(status("GET /" + std::string(8000, 'x') + " HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
}

TEST(HttpTest, ThousandInOneSegmentComeOutOneByOne) {
    std::string bytes;
    for (int i = 0; i < 1000; ++i)
        bytes += "GET /" + std::to_string(i) + " HTTP/1.1\r\nHost: a\r\n\r\n";
    std::string_view rest = bytes;
    for (int i = 0; i < 1000; ++i) {
        Request request = parse_request(rest);
        ASSERT_EQ(request.status, 200) << i;
        ASSERT_EQ(request.path, "/" + std::to_string(i));
        rest.remove_prefix(request.head_size);
    }
    EXPECT_TRUE(rest.empty());
}

TEST(HttpTest, HeadOfAnAnswer) {
    std::string out = "before ";
    append_head(out, {404, "text/plain", "12345"}, "now", false, "A: b\r\n");
    EXPECT_EQ(out,
              "before HTTP/1.1 404 Not Found\r\nDate: now\r\nContent-Type: text/plain\r\n"
              "Content-Length: 5\r\nConnection: close\r\nA: b\r\n\r\n");
}

// A length would be that of an answer to GET (9110, 8.6).
TEST(HttpTest, NoContentHasNoLength) {
    std::string out;
    append_head(out, {204, "", ""}, "now", true, "Allow: GET\r\n");
    EXPECT_EQ(out,
              "HTTP/1.1 204 No Content\r\nDate: now\r\nConnection: keep-alive\r\n"
              "Allow: GET\r\n\r\n");
}

TEST(HttpTest, Date) {
    EXPECT_EQ(http_date(784111777), "Sun, 06 Nov 1994 08:49:37 GMT");
    EXPECT_EQ(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
}

TEST(HttpTest, EveryStatusHasItsLine) {
    for (int known : {200, 204, 400, 404, 405, 413, 414, 431, 501, 503, 505}) {
        EXPECT_TRUE(status_line(known).starts_with(std::to_string(known) + " "));
        EXPECT_TRUE(status_line(known).ends_with("\r\n"));
    }
}
