// Frames: bytes in, bytes out.

#include "07-evloop/frame.h"

#include <gtest/gtest.h>
#include <string>

namespace {

std::string frame(std::string_view payload) {
    auto header = frame_header(static_cast<std::uint32_t>(payload.size()));
    return std::string(header.begin(), header.end()) + std::string(payload);
}

std::string header_claiming(std::uint32_t length) {
    auto header = frame_header(length);
    return {header.begin(), header.end()};
}

FrameStatus status(std::string_view bytes) { return parse_frame(bytes).status; }

}  // namespace

TEST(FrameTest, HeaderIsMagicAndBigEndianLength) {
    EXPECT_EQ(header_claiming(0x0001'0203), std::string("EVLP\0\1\2\3", 8));
    EXPECT_EQ(header_claiming(0xfffe'fdfc), "EVLP\xff\xfe\xfd\xfc");
}

TEST(FrameTest, WholeFrameIsFound) {
    std::string bytes = frame("hello");
    Frame found = parse_frame(bytes);
    EXPECT_EQ(found.status, FrameStatus::complete);
    EXPECT_EQ(found.bytes, bytes);
    EXPECT_EQ(found.payload, "hello");
    EXPECT_EQ(found.bytes.data(), bytes.data()) << "no copy";
}

TEST(FrameTest, SplitAtEveryByteIsIncompleteUntilTheLast) {
    std::string bytes = frame("split me anywhere");
    for (std::size_t n = 0; n < bytes.size(); ++n)
        EXPECT_EQ(status(std::string_view(bytes).substr(0, n)), FrameStatus::incomplete) << n;
    EXPECT_EQ(status(bytes), FrameStatus::complete);
}

TEST(FrameTest, ThousandInOneSegmentComeOutOneByOne) {
    std::string bytes;
    for (int i = 0; i < 1000; ++i) bytes += frame(std::to_string(i));
    std::string_view rest = bytes;
    for (int i = 0; i < 1000; ++i) {
        Frame found = parse_frame(rest);
        ASSERT_EQ(found.status, FrameStatus::complete) << i;
        ASSERT_EQ(found.payload, std::to_string(i));
        rest.remove_prefix(found.bytes.size());
    }
    EXPECT_TRUE(rest.empty());
}

TEST(FrameTest, BadMagicIsFoundAtTheFirstWrongByte) {
    for (std::size_t wrong = 0; wrong < 4; ++wrong) {
        std::string bytes = frame("x");
        bytes[wrong] ^= 0x20;
        for (std::size_t n = 0; n <= bytes.size(); ++n)
            EXPECT_EQ(status(std::string_view(bytes).substr(0, n)),
                      n <= wrong ? FrameStatus::incomplete : FrameStatus::bad_magic)
                << "byte " << wrong << " wrong, " << n << " there";
    }
}

TEST(FrameTest, LengthZeroIsAWholeFrame) {
    std::string bytes = frame("") + "EV";
    Frame found = parse_frame(bytes);
    EXPECT_EQ(found.status, FrameStatus::complete);
    EXPECT_EQ(found.bytes.size(), frame_header_size);
    EXPECT_EQ(found.payload, "");
}

TEST(FrameTest, LengthsAtAndBeyondTheLimit) {
    EXPECT_EQ(status(frame(std::string(max_frame_payload, 'x'))), FrameStatus::complete);
    EXPECT_EQ(status(header_claiming(max_frame_payload)), FrameStatus::incomplete);
    for (std::uint32_t length : {std::uint32_t(max_frame_payload + 1), 0x7fff'ffffu, 0x8000'0000u,
                                 0x8000'0001u, 0xffff'ffffu})
        EXPECT_EQ(status(header_claiming(length)), FrameStatus::too_long) << length;
}

TEST(FrameTest, TooLongIsFoundWithTheHeaderAndNotBefore) {
    std::string header = header_claiming(0xffff'ffff);
    for (std::size_t n = 0; n < header.size(); ++n)
        EXPECT_EQ(status(std::string_view(header).substr(0, n)), FrameStatus::incomplete) << n;
    EXPECT_EQ(status(header), FrameStatus::too_long);
    EXPECT_EQ(status(header + "payload"), FrameStatus::too_long);
}

TEST(FrameTest, PayloadMayHoldAnything) {
    std::string payload = "EVLP" + std::string(3, '\0') + "\xff" + frame("inner");
    std::string bytes = frame(payload) + "EVLP";
    Frame found = parse_frame(bytes);
    EXPECT_EQ(found.status, FrameStatus::complete);
    EXPECT_EQ(found.payload, payload);
}
