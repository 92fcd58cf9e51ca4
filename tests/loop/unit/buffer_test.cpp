// Buffer: a queue of bytes.

#include "07-evloop/buffer.h"

#include "allocations.h"

#include <deque>
#include <gtest/gtest.h>
#include <random>
#include <string>

TEST(BufferTest, IsEmptyAndHoldsNoMemoryAtFirst) {
    Buffer buffer;
    EXPECT_TRUE(buffer.empty());
    EXPECT_EQ(buffer.size(), 0u);
    EXPECT_EQ(buffer.capacity(), 0u);
    EXPECT_EQ(buffer.view(), "");
}

TEST(BufferTest, GivesBackWhatWasAppendedInOrder) {
    Buffer buffer;
    buffer.append("one ");
    buffer.append("");
    buffer.append("two");
    EXPECT_EQ(buffer.view(), "one two");
    buffer.consume(4);
    EXPECT_EQ(buffer.view(), "two");
    buffer.append("!");
    EXPECT_EQ(buffer.view(), "two!");
    buffer.consume(4);
    EXPECT_TRUE(buffer.empty());
}

TEST(BufferTest, HoldsEveryByteValue) {
    std::string all;
    for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
    Buffer buffer;
    buffer.append(all);
    EXPECT_EQ(buffer.view(), all);
}

TEST(BufferTest, ReserveAndCommitWriteInPlace) {
    Buffer buffer;
    buffer.append("ab");
    char* room = buffer.reserve(100);
    EXPECT_GE(buffer.capacity(), 102u);
    room[0] = 'c';
    EXPECT_EQ(buffer.view(), "ab") << "what is not committed is not there";
    buffer.commit(1);
    EXPECT_EQ(buffer.view(), "abc");
    buffer.commit(0);
    EXPECT_EQ(buffer.view(), "abc");
}

TEST(BufferTest, UsesTheRoomInFrontBeforeItGrows) {
    Buffer buffer;
    buffer.append(std::string(512, 'x'));
    std::size_t capacity = buffer.capacity();
    for (int i = 0; i < 10'000; ++i) {
        buffer.consume(300);
        buffer.append(std::string(300, static_cast<char>(i)));
    }
    EXPECT_EQ(buffer.size(), 512u);
    EXPECT_LE(buffer.capacity(), 2 * capacity);
}

TEST(BufferTest, DoesNotGrowForWhatFitsExactly) {
    Buffer buffer;
    buffer.append(std::string(512, 'x'));
    buffer.consume(256);
    buffer.append(std::string(256, 'y'));
    EXPECT_EQ(buffer.capacity(), 512u);
    EXPECT_EQ(buffer.view(), std::string(256, 'x') + std::string(256, 'y'));
}

TEST(BufferTest, HasAnEnd) {
    Buffer buffer;
    buffer.append("x");
    EXPECT_THROW(buffer.reserve(std::size_t{1} << 32), std::bad_alloc);
    EXPECT_THROW(buffer.reserve(SIZE_MAX), std::bad_alloc);
    EXPECT_EQ(buffer.view(), "x");
}

TEST(BufferTest, MovesEachByteOnceOnAverage) {
    // A thousand small messages taken from the front, each followed by one at the back: the start
    // of the bytes must not move with each, or a large input would cost its square.
    Buffer buffer;
    buffer.append(std::string(64 << 10, 'x'));
    buffer.reserve(64 << 10);
    const char* first = buffer.view().data();
    int moves = 0;
    for (int i = 0; i < 1000; ++i) {
        buffer.consume(64);
        const char* expected = first + 64;
        buffer.append(std::string(64, 'y'));
        first = buffer.view().data();
        moves += first != expected;
    }
    EXPECT_LE(moves, 2);
}

TEST(BufferTest, MovingTakesTheMemoryAlong) {
    Buffer from;
    from.append("bytes");
    const char* memory = from.view().data();
    Buffer to{std::move(from)};
    EXPECT_EQ(to.view().data(), memory);
    EXPECT_EQ(from.capacity(), 0u);  // NOLINT: to be empty is its contract
    from.append("new");
    from = std::move(to);
    EXPECT_EQ(from.view(), "bytes");
    EXPECT_EQ(to.capacity(), 0u);  // NOLINT
    Buffer other;
    other.append("other");
    other.swap(from);
    EXPECT_EQ(other.view(), "bytes");
    EXPECT_EQ(from.view(), "other");
}

TEST(BufferTest, IsUnchangedWhenMemoryRunsOut) {
    Buffer buffer;
    buffer.append("kept");
    {
        FailAllocation fail(0);
        EXPECT_THROW(buffer.append(std::string_view(std::string(100'000, 'x'))), std::bad_alloc);
    }
    std::string large(100'000, 'x');
    {
        FailAllocation fail(0);
        EXPECT_THROW(buffer.append(large), std::bad_alloc);
    }
    EXPECT_EQ(buffer.view(), "kept");
    buffer.append(large);
    EXPECT_EQ(buffer.view(), "kept" + large);
}

TEST(BufferTest, DoesAsAStringDoes) {
    for (int seed = 0; seed < 200; ++seed) {
        std::mt19937 random(seed);
        Buffer buffer;
        std::string model;
        char next = 0;
        for (int step = 0; step < 300; ++step) {
            std::size_t n = random() % 700;
            if (random() % 2 == 0) {
                std::string bytes(n, next++);
                buffer.append(bytes);
                model += bytes;
            } else {
                n = std::min(n, model.size());
                buffer.consume(n);
                model.erase(0, n);
            }
            ASSERT_EQ(buffer.view(), model) << "seed " << seed << ", step " << step;
        }
        buffer.clear();
        EXPECT_TRUE(buffer.empty());
    }
}
