// histogram.h: how often which latency was seen, in constant memory.

#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

// Log-linear: below 64 every value has a bucket of its own; above, each doubling is cut into 64
// buckets of the same width. So a bucket is never wider than 1/64 of the values in it, and what
// at() answers is off by 1.6 % at most, from nanoseconds to minutes.
class Histogram {
public:
    static constexpr double relative_error = 1.0 / 64;

    void add(std::int64_t value) {
        std::uint64_t v = std::max<std::int64_t>(value, 0);
        ++counts_[std::min(bucket(v), counts_.size() - 1)];
        ++total_;
        sum_ += v;
        least_ = std::min(least_, v);
        most_ = std::max(most_, v);
    }

    std::uint64_t total() const { return total_; }
    std::uint64_t least() const { return total_ ? least_ : 0; }
    std::uint64_t most() const { return most_; }
    double mean() const { return total_ ? double(sum_) / double(total_) : 0; }

    // The value that `share` of all are not above: at(0.5) is the median. 0 if there are none.
    std::uint64_t at(double share) const {
        auto rank = static_cast<std::uint64_t>(share * double(total_ ? total_ - 1 : 0));
        std::uint64_t seen = 0;
        for (std::size_t b = 0; b < counts_.size(); ++b)
            if ((seen += counts_[b]) > rank) return std::clamp(highest(b), least_, most_);
        return most_;
    }

    // Where a value is counted, and the highest value that is counted there.
    static std::size_t bucket(std::uint64_t value) {
        if (value < sub_buckets) return value;
        std::size_t doublings = std::bit_width(value) - sub_bits - 1;
        return doublings * sub_buckets + (value >> doublings);
    }
    static std::uint64_t highest(std::size_t bucket) {
        if (bucket < sub_buckets) return bucket;
        std::size_t doublings = bucket / sub_buckets - 1;
        std::uint64_t first = (bucket - doublings * sub_buckets) << doublings;
        return first + (std::uint64_t{1} << doublings) - 1;
    }

private:
    static constexpr std::size_t sub_bits = 6;
    static constexpr std::size_t sub_buckets = 1 << sub_bits;
    static constexpr std::size_t max_bits = 40;  // 2^40 ns are 18 minutes

    std::array<std::uint64_t, (max_bits - sub_bits + 1) * sub_buckets> counts_{};
    std::uint64_t total_ = 0;
    std::uint64_t sum_ = 0;
    std::uint64_t least_ = UINT64_MAX;
    std::uint64_t most_ = 0;
};
