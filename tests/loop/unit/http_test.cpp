// HTTP: bytes in, bytes out.

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
                         testing::Values(Case{get(), 200}, Case{"GET / HTTP/1.0\r\n\r\n", 200},
                                         Case{"OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                         Case{get("Transfer-Encoding: chunked\r\n"), 200},
                                         Case{get("transfer-encoding:\tCHUNKED \r\n"), 200},
                                         Case{get("Transfer-Encoding: ,chunked,\r\n"), 200},
                                         Case{"GET / HTTP/1.0\r\nHost: a\r\n\r\n", 200},
                                         Case{"GET / HTTP/1.9\r\nHost: a\r\n\r\n", 200},
                                         Case{"GET / HTTP/1.1\r\nHost:\r\n\r\n", 200},
                                         Case{"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200},
                                         Case{"GET http://h HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                         Case{"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                         Case{"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                         Case{"M-x!# / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
                                         Case{get("X:\r\n"), 200}, Case{get("X: a\tb \r\n"), 200},
                                         Case{get("X: caf\xc3\xa9\r\n"), 200},
                                         Case{get("X: a: b\r\n"), 200},
                                         Case{get("Content-Length: 0\r\n"), 200},
                                         Case{get("Content-Length:\t0001048576 \r\n"), 200}));

INSTANTIATE_TEST_SUITE_P(
    BadRequestLines, HttpCases,
    testing::Values(Case{"GET /\r\n", 400}, Case{"GET\r\n", 400}, Case{"\x16\x03\x01\n", 400},
                    Case{" GET / HTTP/1.1\r\n", 400}, Case{"GET  / HTTP/1.1\r\n", 400},
                    Case{"GET /  HTTP/1.1\r\n", 400}, Case{"GET / HTTP/1.1 \r\n", 400},
                    Case{"GET\t/\tHTTP/1.1\r\n", 400}, Case{"GET / b HTTP/1.1\r\n", 400},
                    Case{"GET /\tb HTTP/1.1\r\n", 400}, Case{"GET /\r HTTP/1.1\r\n", 400},
                    Case{"GET /caf\xc3\xa9 HTTP/1.1\r\n", 400}, Case{"GET a HTTP/1.1\r\n", 400},
                    Case{"GET * HTTP/1.1\r\n", 400}, Case{"GET /a|b HTTP/1.1\r\n", 400},
                    Case{"GET /#a HTTP/1.1\r\n", 400}, Case{"GET /%4 HTTP/1.1\r\n", 400},
                    Case{"GET http:///a HTTP/1.1\r\n", 400},
                    Case{"GET http://:80/ HTTP/1.1\r\n", 400},
                    Case{"GET http://a:b/ HTTP/1.1\r\n", 400}, Case{"OPTIONS a HTTP/1.1\r\n", 400},
                    Case{"OPTIONS ** HTTP/1.1\r\n", 400}, Case{"CONNECT / HTTP/1.1\r\n", 400},
                    Case{"CONNECT a HTTP/1.1\r\n", 400}, Case{"CONNECT a: HTTP/1.1\r\n", 400},
                    Case{"OPTIONS  HTTP/1.1\r\n", 400}, Case{"G(T / HTTP/1.1\r\n", 400},
                    Case{"GET / HTTP/1.1\r\r\n", 400}, Case{"GET / http/1.1\r\n", 400},
                    Case{"GET / HTTP/1\r\n", 400}, Case{"GET / HTTP/1.10\r\n", 400},
                    Case{"GET / HTTP/1,1\r\n", 400}, Case{"GET / HTTP/x.1\r\n", 400},
                    Case{"GET / HTTP/1.x\r\n", 400}, Case{"GET / HTTP/2.0\r\n", 505},
                    Case{"PRI * HTTP/2.0\r\n", 505}, Case{"GET / HTTP/0.9\r\n", 505}));

INSTANTIATE_TEST_SUITE_P(
    BadFields, HttpCases,
    testing::Values(
        Case{"GET / HTTP/1.1\r\n\r\n", 400}, Case{get("Host: a\r\n"), 400},
        Case{"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400},
        Case{"GET / HTTP/1.1\r\nHost: a b\r\n", 400}, Case{"GET / HTTP/1.1\r\nHost: a/b\r\n", 400},
        Case{"GET / HTTP/1.1\r\nHost: u@a\r\n", 400}, Case{"GET / HTTP/1.1\r\nHost: a:b\r\n", 400},
        Case{"GET / HTTP/1.1\r\nHost: [::1\r\n", 400}, Case{"GET / HTTP/1.1\r\nHost: a|b\r\n", 400},
        Case{"GET / HTTP/1.1\r\n Host: a\r\n", 400}, Case{get("X : a\r\n"), 400},
        Case{get("X\t: a\r\n"), 400}, Case{get(": a\r\n"), 400}, Case{get("X\r\n"), 400},
        Case{get("X: a\r\n b\r\n"), 400}, Case{get("X: a\r\n\tb: c\r\n"), 400},
        Case{get("X(: a\r\n"), 400}, Case{get("X: a\rb\r\n"), 400},
        Case{get(std::string("X: a\0b\r\n", 8)), 400}, Case{get("X: \x7f\r\n"), 400},
        Case{get("X: \x1b[1m\r\n"), 400}));

INSTANTIATE_TEST_SUITE_P(
    BadLengths, HttpCases,
    testing::Values(Case{get("Content-Length:\r\n"), 400}, Case{get("Content-Length: x\r\n"), 400},
                    Case{get("Content-Length: -1\r\n"), 400},
                    Case{get("Content-Length: +1\r\n"), 400},
                    Case{get("Content-Length: 0x1\r\n"), 400},
                    Case{get("Content-Length: 1 1\r\n"), 400},
                    Case{get("Content-Length: 1,1\r\n"), 400},
                    Case{get("Content-Length: 1\r\nContent-Length: 2\r\n"), 400},
                    Case{get("Content-Length: 1\r\ncontent-length: 1\r\n"), 400},
                    Case{get("Content-Length: 1048577\r\n"), 413},
                    Case{get("Content-Length: 18446744073709551616\r\n"), 413},
                    Case{get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400},
                    Case{get("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), 400}));

INSTANTIATE_TEST_SUITE_P(
    BadCodings, HttpCases,
    testing::Values(Case{get("Transfer-Encoding:\r\n"), 400},
                    Case{get("Transfer-Encoding: identity\r\n"), 400},
                    Case{get("Transfer-Encoding: xchunked\r\n"), 400},
                    Case{get("Transfer-Encoding: \vchunked\r\n"), 400},
                    Case{get("Transfer-Encoding : chunked\r\n"), 400},
                    Case{get("Transfer-Encoding: chunked;q=1\r\n"), 400},
                    Case{get("Transfer-Encoding: chunked, gzip\r\n"), 400},
                    Case{get("Transfer-Encoding: chunked, chunked\r\n"), 400},
                    Case{get("Transfer-Encoding: chunked\r\nTransfer-Encoding: a\r\n"), 400},
                    Case{get("Transfer-Encoding: gzip, chunked\r\n"), 501},
                    Case{get("Transfer-Encoding: a\r\nTransfer-Encoding: chunked\r\n"), 501},
                    Case{"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400}));

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

namespace {

struct Taken {
    std::size_t bytes = 0;
    bool over = false, broken = false;
    bool operator==(const Taken&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Taken& taken) {
    return out << taken.bytes << (taken.over ? " over" : "") << (taken.broken ? " broken" : "");
}

// What a body takes of `bytes` when they come as far as each of `cuts`, and then all the rest.
Taken take(Body body, std::string_view bytes, const std::vector<std::size_t>& cuts = {}) {
    std::size_t taken = 0;
    for (std::size_t cut : cuts)
        if (cut > taken) taken += body.take(std::string(bytes.substr(taken, cut - taken)));
    taken += body.take(bytes.substr(taken));
    return {taken, body.over(), body.broken()};
}

Body chunked() { return Body(parse_request(get("Transfer-Encoding: chunked\r\n"))); }

struct Chunks {
    std::string bytes;
    std::size_t end;  // of the body, if it has one
    bool broken;
};

void PrintTo(const Chunks& c, std::ostream* out) { *out << testing::PrintToString(c.bytes); }

Chunks whole(std::string bytes) { return {bytes + "GET", bytes.size(), false}; }
Chunks broken(std::string bytes) { return {bytes, 0, true}; }
Chunks unfinished(std::string bytes) { return {bytes, 0, false}; }

}  // namespace

TEST(BodyTest, LengthIsCounted) {
    EXPECT_EQ(take(Body(), "GET"), (Taken{0, true}));
    Body five{parse_request(get("Content-Length: 5\r\n"))};
    EXPECT_EQ(take(five, "12"), (Taken{2, false}));
    EXPECT_EQ(take(five, "12345GET", {1, 3}), (Taken{5, true}));
    EXPECT_TRUE(Body(parse_request(get("Content-Length: 0\r\n"))).over());
}

class ChunkedBody : public testing::TestWithParam<Chunks> {};

// Its end is where it is, wherever the bytes are split, and no byte behind it changes that.
TEST_P(ChunkedBody, EndAtEveryCut) {
    const auto& [bytes, end, broken] = GetParam();
    std::vector<std::vector<std::size_t>> ways(1);  // first, with a cut at every byte
    for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
        ways[0].push_back(cut);
        ways.push_back({cut});
    }
    for (const auto& cuts : ways) {
        Taken taken = take(chunked(), bytes, cuts);
        EXPECT_EQ(taken.broken, broken) << "cut at " << cuts.back();
        EXPECT_EQ(taken.over ? taken.bytes : 0, end) << "cut at " << cuts.back();
    }
}

INSTANTIATE_TEST_SUITE_P(Whole, ChunkedBody,
                         testing::Values(whole("0\r\n\r\n"), whole("5\r\nhello\r\n0\r\n\r\n"),
                                         whole("1\r\na\r\n02\r\nbc\r\n000\r\n\r\n"),
                                         whole("a\r\n0\r\n\r\nGET /\r\n0\r\n\r\n"),
                                         whole("0A\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n"),
                                         whole("1;x=\"y;z\"\r\na\r\n0 ; a\r\n\r\n"),
                                         whole("0\r\nX: y\r\nContent-Length: 5\r\n\r\n")));

INSTANTIATE_TEST_SUITE_P(
    Broken, ChunkedBody,
    testing::Values(broken("\r\n"), broken("x\r\n"), broken("-1\r\n"), broken("0x1\r\n"),
                    broken(" 1\r\n"), broken("1 \r\n"), broken("1 1\r\n"), broken("1;\n0\r\n"),
                    broken("1\na\r\n0\r\n\r\n"), broken("1\r\nab\r\n"), broken("1\r\nabc"),
                    broken("+1\r\n"), broken("1x\r\n"), broken("1\r\na0\r\n\r\n"),
                    broken("0\r\nX y\r\n\r\n"), broken("0\r\n X: y\r\n\r\n"), broken("100001\r\n"),
                    broken("10000000000000000\r\n"), broken(std::string(max_chunk_line, '0'))));

INSTANTIATE_TEST_SUITE_P(Unfinished, ChunkedBody,
                         testing::Values(unfinished(""), unfinished("5"), unfinished("5\r\nhell"),
                                         unfinished("5\r\nhello\r"), unfinished("0\r\n"),
                                         unfinished("0\r\nX: y\r\n")));

TEST(BodyTest, AllChunksTogetherHaveALimit) {
    std::string bytes;
    while (bytes.size() <= 2 * max_request_body)
        bytes += "3e8\r\n" + std::string(1000, 'x') + "\r\n";
    Taken taken = take(chunked(), bytes);
    EXPECT_TRUE(taken.broken);
    EXPECT_LE(taken.bytes, max_request_body);
}

TEST(BodyTest, WhatIsBetweenChunksCountsToo) {
    std::string bytes;
    while (bytes.size() <= max_request_body) bytes += "1;" + std::string(2000, 'x') + "\r\na\r\n";
    Taken taken = take(chunked(), bytes);
    EXPECT_TRUE(taken.broken);
    EXPECT_GT(taken.bytes, max_request_body);
    EXPECT_LT(taken.bytes, max_request_body + 2100);
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
