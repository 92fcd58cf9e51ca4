// buffer.h: a queue of bytes. Append at the back, consume at the front.

#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <utility>

// Memory grows by doubling and is never given back by consume(); moving the Buffer away does that.
// Bytes are moved to the front only when at least as many have been consumed before them, so that
// each byte is moved once on average, however small the messages that are taken out one by one.
class Buffer {
public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer other) noexcept {
        swap(other);
        return *this;
    }

    void swap(Buffer& other) noexcept {
        std::swap(bytes_, other.bytes_);
        std::swap(capacity_, other.capacity_);
        std::swap(begin_, other.begin_);
        std::swap(end_, other.end_);
    }

    bool empty() const { return begin_ == end_; }
    std::size_t size() const { return end_ - begin_; }
    std::size_t capacity() const { return capacity_; }

    // Valid until the next call that is not const.
    std::string_view view() const { return {bytes_.get() + begin_, size()}; }

    // Make room for `n` bytes behind the last one. Write there, then say how many with commit().
    // Throws std::bad_alloc, and is unchanged then; also beyond 4 GiB.
    char* reserve(std::size_t n) {
        if (capacity_ - end_ < n) make_room(n);
        return bytes_.get() + end_;
    }

    void commit(std::size_t n) {
        assert(n <= capacity_ - end_);
        end_ += static_cast<std::uint32_t>(n);
    }

    void append(std::string_view bytes) {
        if (bytes.empty()) return;
        std::memcpy(reserve(bytes.size()), bytes.data(), bytes.size());
        commit(bytes.size());
    }

    void consume(std::size_t n) {
        assert(n <= size());
        begin_ += static_cast<std::uint32_t>(n);
        if (begin_ == end_) clear();
    }

    void clear() { begin_ = end_ = 0; }

private:
    void make_room(std::size_t n) {
        std::size_t kept = size();
        if (capacity_ - kept >= n && kept <= begin_) {
            std::memmove(bytes_.get(), bytes_.get() + begin_, kept);
        } else {
            if (n > UINT32_MAX - kept) throw std::bad_alloc();
            std::size_t doubled = std::min<std::size_t>(2 * capacity(), UINT32_MAX);
            std::size_t capacity = std::max({kept + n, doubled, std::size_t{512}});
            auto bytes = std::make_unique_for_overwrite<char[]>(capacity);
            if (kept != 0) std::memcpy(bytes.get(), bytes_.get() + begin_, kept);
            bytes_ = std::move(bytes);
            capacity_ = static_cast<std::uint32_t>(capacity);
        }
        begin_ = 0;
        end_ = static_cast<std::uint32_t>(kept);
    }

    std::unique_ptr<char[]> bytes_;
    std::uint32_t capacity_ = 0;  // 32 bits: every idle connection has two of these
    std::uint32_t begin_ = 0;  // the bytes held are [begin_, end_)
    std::uint32_t end_ = 0;
};
