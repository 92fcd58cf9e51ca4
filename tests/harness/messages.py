"""Bytes: the frames that clients send, and how a difference is shown to people."""

import struct

from tests.harness.course import KIB


def frame(payload=b""):
    """A message as stage 07 reads it. The other stages send it back without looking."""
    return b"EVLP" + struct.pack("!I", len(payload)) + payload


def pattern(size, seed=0):
    """Bytes that do not repeat where a buffer might end: they do after 251, which is prime."""
    block = bytes((i * 7 + seed) % 251 for i in range(251))
    return (block * (size // 251 + 1))[:size]


def frames(total, size=64 * KIB, seed=1):
    """About `total` bytes of frames with `size` bytes of payload, no two alike."""
    block = pattern(size, seed)
    count = max(1, total // (size + 8))
    return b"".join(frame(struct.pack("!II", seed, i) + block[8:]) for i in range(count))


def counted(count, noun):
    """A number with its noun, for people: 1 byte, 0 bytes, 1,500 clients."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def show(data, limit=16):
    """Bytes for people: how many, and how they begin."""
    if isinstance(data, str):
        return data
    text = " ".join(f"{byte:02x}" for byte in data[:limit])
    return counted(len(data), "byte") + (f": {text}" if data else "") + " ..." * (len(data) > limit)


def printable(text):
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def right(count):
    """How many bytes came back as they were sent."""
    return f"{counted(count, 'byte')} came back right"


def difference(expected, seen, before=0):
    """Point at the first byte that differs, `before` right ones being left out. '' if none does."""
    if expected == seen:
        return ""
    shared = min(len(expected), len(seen))
    at = next((i for i in range(shared) if expected[i] != seen[i]), shared)
    if at == len(seen):
        return f"{right(before + at)}, then nothing more came" if before + at else "nothing came"
    if at == len(expected):
        return f"{right(before + at)}, then {show(seen[at:])} too many"
    return (f"byte {before + at:,} differs (counted from 0): expected {show(expected[at:at + 8])}, "
            f"received {show(seen[at:at + 8])}")
