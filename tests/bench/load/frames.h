// frames.h: frames that cannot be mistaken for one another.

#pragma once

#include "07-evloop/frame.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

// Makes the frames of one size. The payload is noise with a stamp in every 256 bytes, and the stamp
// follows from the connection, the number of the frame and the place in it. So an echo that is
// swapped, repeated, shifted, or put together from two frames differs from what was sent.
//
// The noise is made once and only the stamps are written for each frame: the generator would
// otherwise spend more time on its payload than the server on its work.
class FrameMaker {
public:
    explicit FrameMaker(std::size_t payload) {
        auto header = frame_header(static_cast<std::uint32_t>(payload));
        frame_.assign(header.begin(), header.end());
        for (std::uint64_t i = 0; i < payload; ++i) frame_.push_back(char(mix(i)));
    }

    std::size_t size() const { return frame_.size(); }

    // The frame with this number on this connection. Valid until the next call.
    std::string_view make(std::uint32_t connection, std::uint32_t number) {
        std::uint64_t seed = std::uint64_t{connection} << 32 | number;
        for (std::size_t at = frame_header_size; at < frame_.size(); at += stamp_distance) {
            std::uint64_t stamp = mix(seed + at * 0x9e3779b97f4a7c15);
            std::memcpy(&frame_[at], &stamp, std::min(sizeof stamp, frame_.size() - at));
        }
        return frame_;
    }

private:
    static constexpr std::size_t stamp_distance = 256;  // bytes

    // Every bit of the result depends on every bit of x (the finalizer of splitmix64).
    static std::uint64_t mix(std::uint64_t x) {
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
        x = (x ^ x >> 27) * 0x94d049bb133111eb;
        return x ^ x >> 31;
    }

    std::string frame_;
};
