// The histogram of the load generator (tests/bench/load/histogram.h), and its frames.

#include "tests/bench/load/histogram.h"

#include "tests/bench/load/frames.h"

#include <gtest/gtest.h>
#include <set>
#include <string>

TEST(Histogram, EmptyIsZero) {
    Histogram h;
    EXPECT_EQ(h.total(), 0u);
    EXPECT_EQ(h.at(0.5), 0u);
    EXPECT_EQ(h.least(), 0u);
    EXPECT_EQ(h.mean(), 0.0);
}

// Each bucket begins where the one before ends, and none is wider than the stated error allows.
TEST(Histogram, BucketsHaveNoGapsAndStayWithinTheError) {
    for (std::size_t b = 0; b + 1 < Histogram::bucket(std::uint64_t{1} << 39); ++b) {
        std::uint64_t last = Histogram::highest(b);
        ASSERT_EQ(Histogram::bucket(last), b);
        ASSERT_EQ(Histogram::bucket(last + 1), b + 1);
        auto width = double(Histogram::highest(b + 1) - last);
        ASSERT_LE((width - 1) / double(last + 1), Histogram::relative_error);
    }
}

TEST(Histogram, PercentilesOfAKnownDistribution) {
    Histogram h;
    for (int i = 1; i <= 100'000; ++i) h.add(i * 1000);
    for (double share : {0.5, 0.9, 0.99, 0.999}) {
        double exact = share * 100'000'000;
        EXPECT_NEAR(double(h.at(share)), exact, exact * Histogram::relative_error + 1000) << share;
    }
    EXPECT_EQ(h.at(0), 1007u);  // the highest value of the bucket of 1,000
    EXPECT_EQ(h.at(1), 100'000'000u);
    EXPECT_DOUBLE_EQ(h.mean(), 50'000'500);
}

TEST(Histogram, ExtremesAreKept) {
    Histogram h;
    h.add(-5);  // clocks of two cores may differ
    h.add(INT64_MAX / 2);
    EXPECT_EQ(h.least(), 0u);
    EXPECT_EQ(h.most(), static_cast<std::uint64_t>(INT64_MAX / 2));
    EXPECT_EQ(h.total(), 2u);
}

TEST(FrameMaker, NoTwoFramesAreAlike) {
    for (std::size_t size : {8u, 64u, 300u, 65'536u}) {
        FrameMaker maker(size);
        std::set<std::string> seen;
        for (std::uint32_t connection = 1; connection <= 20; ++connection)
            for (std::uint32_t number = 0; number < 20; ++number)
                EXPECT_TRUE(seen.insert(std::string(maker.make(connection, number))).second);
    }
}

TEST(FrameMaker, MakesTheSameAgain) {
    FrameMaker maker(1000);
    std::string first(maker.make(3, 7));
    maker.make(3, 8);
    EXPECT_EQ(maker.make(3, 7), first);
}

TEST(FrameMaker, FramesAreValidAtEverySize) {
    for (std::size_t size : {0u, 1u, 7u, 8u, 9u, 255u, 256u, 257u, 1u << 20}) {
        FrameMaker maker(size);
        Frame frame = parse_frame(maker.make(1, 1));
        EXPECT_EQ(frame.status, FrameStatus::complete);
        EXPECT_EQ(frame.payload.size(), size);
    }
}
