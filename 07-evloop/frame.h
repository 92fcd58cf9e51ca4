// frame.h: the protocol of stage 07. Bytes in, bytes out; no sockets and no copies.
//
//     magic  4 bytes "EVLP"     length  4 bytes, big-endian, 0 .. 1 MiB     payload  length bytes

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

constexpr std::string_view frame_magic = "EVLP";
constexpr std::size_t frame_header_size = 8;  // bytes
constexpr std::size_t max_frame_payload = 1 << 20;  // bytes

enum class FrameStatus {
    complete,  // a frame is at the front of the bytes
    incomplete,  // what is there may become one
    bad_magic,  // it never will: close the connection
    too_long,  // likewise
};

struct Frame {
    FrameStatus status;
    std::string_view bytes;  // if complete: the whole frame. A part of what was parsed
    std::string_view payload;  // if complete: what it carries. A part of `bytes`
};

// Look for a frame at the front of `bytes`. A wrong byte is found as soon as it is there.
inline Frame parse_frame(std::string_view bytes) {
    std::string_view magic = bytes.substr(0, frame_magic.size());
    if (magic != frame_magic.substr(0, magic.size())) return {FrameStatus::bad_magic, {}, {}};
    if (bytes.size() < frame_header_size) return {FrameStatus::incomplete, {}, {}};

    std::uint32_t length = 0;
    for (char byte : bytes.substr(frame_magic.size(), 4))
        length = length << 8 | static_cast<unsigned char>(byte);
    if (length > max_frame_payload) return {FrameStatus::too_long, {}, {}};
    if (bytes.size() - frame_header_size < length) return {FrameStatus::incomplete, {}, {}};

    std::string_view frame = bytes.substr(0, frame_header_size + length);
    return {FrameStatus::complete, frame, frame.substr(frame_header_size)};
}

// The header of a frame whose payload has `length` bytes, at most max_frame_payload.
inline std::array<char, frame_header_size> frame_header(std::uint32_t length) {
    auto byte = [length](int shift) { return static_cast<char>(length >> shift & 0xff); };
    return {'E', 'V', 'L', 'P', byte(24), byte(16), byte(8), byte(0)};
}

// The frame with this payload.
inline std::string make_frame(std::string_view payload) {
    auto header = frame_header(static_cast<std::uint32_t>(payload.size()));
    return std::string(header.begin(), header.end()).append(payload);
}
