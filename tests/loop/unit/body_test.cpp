// HTTP: where the body of a request ends.

#include "07-evloop/http.h"

#include <gtest/gtest.h>
#include <ostream>
#include <string>
#include <vector>

namespace {

// The body of a request with this further field.
Body body_of(std::string_view field) {
    return Body(parse_request("POST / HTTP/1.1\r\nHost: a\r\n" + std::string(field) + "\r\n\r\n"));
}

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

Body chunked() { return body_of("Transfer-Encoding: chunked"); }

struct Chunks {
    std::string bytes;
    std::size_t end;  // of the body, if it has one
    bool broken;
};

// All of a suite: testing::Values() would be slow to compile.
auto bodies(const std::vector<Chunks>& all) { return testing::ValuesIn(all); }

void PrintTo(const Chunks& c, std::ostream* out) { *out << testing::PrintToString(c.bytes); }

Chunks whole(std::string bytes) { return {bytes + "GET", bytes.size(), false}; }
Chunks broken(std::string bytes) { return {bytes, 0, true}; }
Chunks unfinished(std::string bytes) { return {bytes, 0, false}; }

}  // namespace

TEST(BodyTest, LengthIsCounted) {
    EXPECT_EQ(take(Body(), "GET"), (Taken{0, true}));
    Body five = body_of("Content-Length: 5");
    EXPECT_EQ(take(five, "12"), (Taken{2, false}));
    EXPECT_EQ(take(five, "12345GET", {1, 3}), (Taken{5, true}));
    EXPECT_TRUE(body_of("Content-Length: 0").over());
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
                         bodies({whole("0\r\n\r\n"), whole("5\r\nhello\r\n0\r\n\r\n"),
                                 whole("1\r\na\r\n02\r\nbc\r\n000\r\n\r\n"),
                                 whole("a\r\n0\r\n\r\nGET /\r\n0\r\n\r\n"),
                                 whole("0A\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n"),
                                 whole("1;x=\"y;z\"\r\na\r\n0 ; a\r\n\r\n"),
                                 whole("0\r\nX: y\r\nContent-Length: 5\r\n\r\n")}));

INSTANTIATE_TEST_SUITE_P(
    Broken, ChunkedBody,
    bodies({broken("\r\n"), broken("x\r\n"), broken("-1\r\n"), broken("0x1\r\n"), broken(" 1\r\n"),
            broken("1 \r\n"), broken("1 1\r\n"), broken("1;\n0\r\n"), broken("1\na\r\n0\r\n\r\n"),
            broken("1\r\nab\r\n"), broken("1\r\nabc"), broken("+1\r\n"), broken("1x\r\n"),
            broken("1\r\na0\r\n\r\n"), broken("0\r\nX y\r\n\r\n"), broken("0\r\n X: y\r\n\r\n"),
            broken("100001\r\n"), broken("10000000000000000\r\n"),
            broken(std::string(max_chunk_line, '0'))}));

INSTANTIATE_TEST_SUITE_P(Unfinished, ChunkedBody,
                         bodies({unfinished(""), unfinished("5"), unfinished("5\r\nhell"),
                                 unfinished("5\r\nhello\r"), unfinished("0\r\n"),
                                 unfinished("0\r\nX: y\r\n")}));

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
