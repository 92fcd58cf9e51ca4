// echo.h: the framed echo for loops that only say when a socket is ready: raw epoll and libev.

#pragma once

#include "07-evloop/buffer.h"
#include "07-evloop/frame.h"
#include "common/net.h"

constexpr std::size_t read_size = 64 << 10;  // bytes

// How many bytes at the front of `bytes` are whole frames. Nothing: not the protocol.
inline std::optional<std::size_t> whole_frames(std::string_view bytes) {
    std::size_t length = 0;
    for (;;) {
        Frame frame = parse_frame(bytes.substr(length));
        if (frame.status == FrameStatus::incomplete) return length;
        if (frame.status != FrameStatus::complete) return {};
        length += frame.bytes.size();
    }
}

// One connection. A large buffer is borrowed for the time that bytes are in it.
struct Client {
    Fd fd;
    Buffer in{};  // received: the beginning of a frame
    Buffer out{};  // not sent yet

    bool wants_to_send() const { return !out.empty(); }

    // False when the client is gone.
    bool send_some(std::string_view bytes, std::size_t& sent) {
        ssize_t n = send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        sent = n == -1 ? 0 : n;
        return n != -1 || errno == EAGAIN || errno == EINTR;
    }

    bool on_writable() {
        std::size_t sent = 0;
        if (!send_some(out.view(), sent)) return false;
        out.consume(sent);
        return true;
    }

    bool on_readable() {
        static Buffer spare;
        if (in.empty()) in.swap(spare);
        ssize_t n =
            recv(fd.get(), in.reserve(in.empty() ? 2 * read_size : read_size), read_size, 0);
        if (n == -1 && (errno == EAGAIN || errno == EINTR)) return true;
        if (n <= 0) return false;
        in.commit(n);

        auto length = whole_frames(in.view());
        if (!length) return false;
        std::size_t sent = 0;
        if (*length != 0 && out.empty() && !send_some(in.view().substr(0, *length), sent))
            return false;
        out.append(in.view().substr(sent, *length - sent));
        in.consume(*length);
        if (in.empty()) in.swap(spare);
        return true;
    }
};
