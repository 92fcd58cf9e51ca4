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
//
// All that a Buffer has to say stands before its bytes, so that an empty one is a null pointer:
// every idle connection has two of these.
class Buffer {
public:
    void swap(Buffer& other) noexcept { block_.swap(other.block_); }

    bool empty() const { return size() == 0; }
    std::size_t size() const { return block_ ? block_->end - block_->begin : 0; }
    std::size_t capacity() const { return block_ ? block_->capacity : 0; }

    // Valid until the next call that is not const.
    std::string_view view() const {
        return block_ ? std::string_view{block_->bytes() + block_->begin, size()}
                      : std::string_view{};
    }

    // Make room for `n` bytes behind the last one. Write there, then say how many with commit().
    // Throws std::bad_alloc, and is unchanged then; also beyond 4 GiB.
    char* reserve(std::size_t n) {
        if (!block_ || block_->capacity - block_->end < n) make_room(n);
        return block_->bytes() + block_->end;
    }

    void commit(std::size_t n) {
        assert(n <= block_->capacity - block_->end);
        block_->end += static_cast<std::uint32_t>(n);
    }

    void append(std::string_view bytes) {
        if (bytes.empty()) return;
        std::memcpy(reserve(bytes.size()), bytes.data(), bytes.size());
        commit(bytes.size());
    }

    void consume(std::size_t n) {
        assert(n <= size());
        if (n == size()) return clear();
        block_->begin += static_cast<std::uint32_t>(n);
    }

    void clear() {
        if (block_) block_->begin = block_->end = 0;
    }

private:
    struct Block {
        std::uint32_t capacity, begin, end;  // the bytes held are [begin, end)

        char* bytes() { return reinterpret_cast<char*>(this + 1); }
    };

    struct Free {
        void operator()(Block* block) const { ::operator delete(block); }
    };

    void make_room(std::size_t n) {
        std::size_t kept = size();
        if (block_ && block_->capacity - kept >= n && kept <= block_->begin) {
            std::memmove(block_->bytes(), block_->bytes() + block_->begin, kept);
        } else {
            if (n > UINT32_MAX - kept) throw std::bad_alloc();
            std::size_t doubled = std::min<std::size_t>(2 * capacity(), UINT32_MAX);
            std::size_t capacity = std::max({kept + n, doubled, std::size_t{512}});
            void* memory = ::operator new(sizeof(Block) + capacity);
            auto* block = new (memory) Block{static_cast<std::uint32_t>(capacity), 0, 0};
            if (kept != 0) std::memcpy(block->bytes(), view().data(), kept);
            block_.reset(block);
        }
        block_->begin = 0;
        block_->end = static_cast<std::uint32_t>(kept);
    }

    std::unique_ptr<Block, Free> block_;
};
