// frame_fuzz.cpp: parse_frame() on any bytes, cut anywhere.

#include "07-evloop/frame.h"
#include "script.h"

#include <vector>

namespace {

constexpr std::size_t longest = 1 << 20;  // bytes of a stream, before its last piece
constexpr std::size_t worth_a_copy = 8192;  // bytes

// What holds for an answer on its own.
void check_answer(std::string_view bytes, const Frame& frame) {
    if (frame.status == FrameStatus::complete) {
        require(frame.bytes.data() == bytes.data(), "a frame begins where the bytes begin");
        require(frame.bytes.size() <= bytes.size(), "a frame is within the bytes");
        require(frame.payload.size() <= max_frame_payload, "a payload is within its limit");
        require(frame.bytes.size() == frame_header_size + frame.payload.size(),
                "a frame is a header and a payload");
        require(frame.payload.data() == bytes.data() + frame_header_size,
                "the payload follows the header");
        auto header = frame_header(static_cast<std::uint32_t>(frame.payload.size()));
        require(std::string_view(header.data(), header.size()) == bytes.substr(0, header.size()),
                "frame_header() makes the header that was parsed");
        return;
    }
    require(frame.bytes.empty() && frame.payload.empty(), "no frame, no bytes");
}

FrameStatus status_with(std::string_view bytes, std::string_view more) {
    return parse_frame(std::string(bytes) + std::string(more)).status;
}

// What holds for an answer when more bytes come.
void check_future(std::string_view bytes, FrameStatus status) {
    if (bytes.size() > worth_a_copy) return;
    if (status == FrameStatus::incomplete && bytes.size() >= frame_header_size) {
        std::size_t length = 0;
        for (char byte : bytes.substr(4, 4))
            length = length * 256 + static_cast<std::uint8_t>(byte);
        std::size_t missing = frame_header_size + length - bytes.size();
        if (missing > worth_a_copy) return;
        require(status_with(bytes, std::string(missing, 'x')) == FrameStatus::complete,
                "complete with the byte that its header asks for");
        require(status_with(bytes, std::string(missing - 1, 'x')) == FrameStatus::incomplete,
                "not complete a byte before that");
    } else if (status != FrameStatus::incomplete) {
        for (std::string_view more : {std::string_view("\0\0\0\0\0\0\0\0", 8),
                                      std::string_view("EVLP\0\0\0\0", 8), std::string_view("x")})
            require(status_with(bytes, more) == status, "what is decided stays decided");
    }
}

Frame parse(std::string_view bytes) {
    if (bytes.size() <= worth_a_copy) {
        Exact exact(bytes);
        check_answer(exact.view(), parse_frame(exact.view()));
    }
    Frame frame = parse_frame(bytes);
    check_answer(bytes, frame);
    return frame;
}

struct Outcome {
    std::vector<std::size_t> sizes;  // of the frames
    FrameStatus last = FrameStatus::incomplete;
    bool operator==(const Outcome&) const = default;
};

// What a server sees when the stream reaches it in parts that end at `cuts`.
Outcome in_parts(std::string_view stream, const std::vector<std::size_t>& cuts) {
    Outcome outcome;
    std::size_t taken = 0;
    for (std::size_t cut : cuts) {
        Frame frame;
        while ((frame = parse(stream.substr(taken, cut - taken))).status == FrameStatus::complete) {
            outcome.sizes.push_back(frame.bytes.size());
            taken += frame.bytes.size();
        }
        if (outcome.last != FrameStatus::incomplete)
            require(frame.status == outcome.last, "malformed is final");
        outcome.last = frame.status;
    }
    check_future(stream.substr(taken), outcome.last);
    return outcome;
}

void check_against_reference(std::string_view stream, const Outcome& outcome) {
    Reference reference;
    reference.feed(stream);
    std::size_t whole = 0;
    for (std::size_t size : outcome.sizes) whole += size;
    require(outcome.sizes.size() == reference.frames(), "as many frames as there are");
    require(whole == reference.whole(), "the frames are as long as they are");
    constexpr FrameStatus expected[] = {FrameStatus::incomplete, FrameStatus::bad_magic,
                                        FrameStatus::too_long};
    require(outcome.last == expected[reference.verdict()], "the right verdict on what follows");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    CutStream stream(Script(data, size), longest, [](Script& script) {
        return next_piece(script, static_cast<int>(script.number(1) % piece_kinds));
    });
    Outcome whole = in_parts(stream.bytes, {stream.bytes.size()});
    check_against_reference(stream.bytes, whole);
    require(in_parts(stream.bytes, stream.cuts) == whole, "cut anywhere, the same as whole");
    if (stream.bytes.size() > 200) return 0;
    stream.cut_everywhere();
    require(in_parts(stream.bytes, stream.cuts) == whole, "cut everywhere, the same as whole");
    return 0;
}
