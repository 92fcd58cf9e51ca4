"""What stage 07 alone understands, and what is no frame."""

import struct

from tests.harness import KIB, MIB, Fail, Gone, counted, frame, probe, wait_for

SEVEN = "- - - - - - P"


def closes(client, data, what):
    """Send what is not acceptable: the connection must be closed, without an answer."""
    client.send(data)
    try:
        while True:
            if client.try_receive():
                raise Fail("an answer", expected=f"{what}: closed", sent=data)
            client.wait(what=f"{what}: closed", sent=data)
    except Gone:
        pass


@probe(row=20, title="no frame, or one that is too long: closed, and said", expect=SEVEN,
       look="frame.h", hint="look at the header before you wait for what it promises")
def not_a_frame(stage):
    """Each wrong header closes its own connection."""
    server = stage.start()
    other = server.connect()
    wrong = {"wrong magic": b"GET / HTTP/1.1\r\n", "wrong last byte of the magic": b"EVLQ",
             "1 MiB and a byte": b"EVLP" + struct.pack("!I", MIB + 1),
             "2^31 bytes": b"EVLP" + struct.pack("!I", 1 << 31),
             "2^32 - 1 bytes": b"EVLP" + struct.pack("!I", (1 << 32) - 1)}
    count = 0
    for what, data in wrong.items():
        for before in (b"", frame(b"good")):  # what was right is answered
            client = server.connect()
            client.send(before)
            client.expect(before)
            closes(client, data, what)
            other.roundtrip()
            count += 1
            server.come_to_rest()
            said = len([line for line in server.stderr().splitlines()
                        if "closed" in line or not stage.own])
            if said < count or stage.own and said > count:
                raise Fail(f"{counted(said - count + 1, 'line')} about it on stderr",
                           sent=data, expected="one line: closed" if stage.own else "a line")


@probe(row=20, title="what was answered before arrives, though the rest is not read", expect=SEVEN,
       look="close(2) with unread input sends a reset: RFC 1122, 4.2.2.13; shutdown(2)",
       hint="shut down your half, throw away what still comes, and close when the client has")
def answer_before_it(stage):
    """A long answer is still in the server's socket when the frame comes that ends it all."""
    server = stage.start()
    client = server.connect(rcvbuf=16 * KIB)
    long = frame(bytes(range(256)) * KIB)
    client.send(long)

    def answered():
        far = client.far_end()
        return not far or far.inode and not far.unread and far.unsent

    wait_for(answered, "a frame of 256 KiB is answered", server)
    server.pause()
    client.send(b"not a frame" + bytes(150 * KIB))  # more than one recv() takes
    server.resume()
    wait_for(lambda: not client.far_end() or not client.unread(), "the server looks at it", server)
    client.expect(long, sent="a frame of 256 KiB, then 150 KiB that are none")
    client.expect_end("a frame of 256 KiB, then 150 KiB that are none")


@probe(row=20, title="frames of 0 bytes and of 1 MiB are answered", expect=SEVEN, look="frame.h",
       hint="the limits themselves are allowed")
def limits(stage):
    """The shortest and the longest."""
    client = stage.start().connect()
    client.roundtrip(b"")
    client.roundtrip(bytes(range(256)) * (MIB // 256))
    client.half_close()
    client.expect_end()


@probe(row=20, title="memory follows what has come, not what was claimed", expect=SEVEN,
       look="/proc/PID/status: VmHWM", hint="do not allocate the length of a header")
def claimed(stage):
    """200 headers claim 1 MiB each, and nothing follows until the deadline."""
    server = stage.start("--idle-ms", 500, "--tick-ms", 50)
    server.connect_with(frame(b"hello"))[0].expect(frame(b"hello"))
    before, claim = server.memory_kib(), b"EVLP" + struct.pack("!I", MIB) + b"x"
    for client in [client for _ in range(2) for client in server.connect_with(*[claim] * 100)]:
        client.expect_end("a header that claims 1 MiB, and a byte")
    grown = server.memory_kib("VmHWM") - before
    if grown > 20 * KIB:
        raise Fail(f"{grown:,} KiB more memory", expected="less than 20 MiB for 200 clients",
                   sent="200 headers, each of which claims 1 MiB")
