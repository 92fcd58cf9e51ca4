// script.h: how the bytes of a fuzzer are read, and what a right server answers.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

// A property does not hold. abort() is what libFuzzer keeps the input for.
[[noreturn]] inline void fail(const std::string& what) {
    dprintf(STDERR_FILENO, "FAILURE: %s\n", what.c_str());
    std::abort();
}

inline void require(bool holds, const char* what) {
    if (!holds) fail(what);
}

// The input, read from the front. Beyond its end there are zeros.
class Script {
public:
    Script(const std::uint8_t* bytes, std::size_t size)
        : rest_(reinterpret_cast<const char*>(bytes), size) {}

    bool over() const { return rest_.empty(); }

    std::uint32_t number(int size) {  // big-endian
        std::uint32_t value = 0;
        for (int i = 0; i < size; ++i) {
            value = value << 8 | (over() ? 0 : static_cast<unsigned char>(rest_.front()));
            rest_.remove_prefix(over() ? 0 : 1);
        }
        return value;
    }

    std::string_view bytes(std::size_t most) {
        std::string_view taken = rest_.substr(0, most);
        rest_.remove_prefix(taken.size());
        return taken;
    }

private:
    std::string_view rest_;
};

// What is sent, and where it is cut: at the end of each piece.
struct CutStream {
    template <class NextPiece>
    CutStream(Script script, std::size_t longest, NextPiece next_piece) {
        while (!script.over() && bytes.size() < longest) {
            bytes += next_piece(script);
            cuts.push_back(bytes.size());
        }
    }

    void cut_everywhere() {
        cuts.clear();
        for (std::size_t cut = 0; cut <= bytes.size(); ++cut) cuts.push_back(cut);
    }

    std::string bytes;
    std::vector<std::size_t> cuts{0};
};

// The bytes in memory that ends where they end, so that AddressSanitizer sees a read beyond.
struct Exact {
    explicit Exact(std::string_view from) : memory(new char[from.size()]), size(from.size()) {
        if (size != 0) std::memcpy(memory.get(), from.data(), size);
    }
    std::string_view view() const { return {memory.get(), size}; }

    std::unique_ptr<char[]> memory;
    std::size_t size;
};

// A part of a stream: where it ends the stream is cut. Bytes as they are make every stream
// possible, the other kinds make the interesting ones likely, and streams of a megabyte short to
// write down.
enum Piece { literal, whole_frame, small_claim, any_claim, filling, limit, job, piece_kinds };

inline std::string header_claiming(std::uint32_t length) {
    std::string header = "EVLP";
    for (int shift : {24, 16, 8, 0}) header.push_back(static_cast<char>(length >> shift));
    return header;
}

// Bytes in which a lost or a moved one shows.
inline std::string_view pattern(std::size_t size) {
    static const std::string bytes = [] {
        std::string all((1 << 20) + 16, '\0');
        for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<char>(i * 7 % 251);
        return all;
    }();
    return std::string_view(bytes).substr(0, size);
}

inline std::string frame_of(std::string_view payload) {
    return header_claiming(static_cast<std::uint32_t>(payload.size())).append(payload);
}

inline std::string next_piece(Script& script, int kind) {
    constexpr std::uint32_t most = 1 << 20;
    switch (kind) {
        case literal:
            return std::string(script.bytes(script.number(1)));
        case whole_frame:
            return frame_of(pattern(script.number(2) % 3000));
        case small_claim:
            return header_claiming(script.number(1));
        case any_claim:
            return header_claiming(script.number(4));
        case filling:
            return std::string(pattern(script.number(2)));
        case limit: {  // a claim about as long as it may be, and about as many bytes
            std::uint32_t choice = script.number(1);
            std::string claim = header_claiming(most - 3 + choice % 7);
            return choice < 128 ? claim : claim.append(pattern(most - 3 + choice / 7 % 7));
        }
        default:  // a frame that the server of stage 07 takes for work
            return frame_of("sleep " + std::to_string(script.number(1) % 20) + " ");
    }
}

// The protocol once more, a byte at a time, so that it shares no line and no idea with frame.h.
class Reference {
public:
    enum Verdict { fine, wrong_magic, too_long };

    void feed(std::string_view bytes) {
        while (!bytes.empty() && verdict_ == fine) {
            std::size_t n = std::min<std::size_t>(missing_, bytes.size());
            if (n > 0) skip(n);
            else feed(static_cast<unsigned char>(bytes[0]));
            bytes.remove_prefix(std::max<std::size_t>(n, 1));
        }
    }

    Verdict verdict() const { return verdict_; }
    std::size_t whole() const { return whole_; }  // bytes in the frames that are complete
    std::size_t frames() const { return frames_; }

private:
    void feed(unsigned char byte) {  // of a header
        ++seen_;
        if (at_ < 4) {
            constexpr char magic[] = {'E', 'V', 'L', 'P'};
            if (byte != magic[at_++]) verdict_ = wrong_magic;
            return;
        }
        length_ = length_ * 256 + byte;
        if (++at_ < 8) return;
        if (length_ > 1'048'576) verdict_ = too_long;
        else if (length_ == 0) end_frame();
        else missing_ = length_;
    }

    void skip(std::size_t n) {  // bytes of a payload
        seen_ += n;
        missing_ -= n;
        if (missing_ == 0) end_frame();
    }

    void end_frame() {
        at_ = 0;
        length_ = 0;
        whole_ = seen_;
        ++frames_;
    }

    Verdict verdict_ = fine;
    int at_ = 0;  // in the header
    std::uint64_t length_ = 0, missing_ = 0;
    std::size_t seen_ = 0, whole_ = 0, frames_ = 0;
};
