"""Bytes: all of them, in order, however they are cut."""

import socket

from tests.harness import KIB, MIB, Gone, frame, pattern, probe, wait_for
from tests.probes.flood import Flood, finish_dropped


@probe(row=5, title="a request comes byte by byte, and is answered whole", expect="P P P P P P P",
       look="recv(2): it returns what is there, not a message",
       hint="TCP is a stream of bytes: one send() is not one recv()")
def split_everywhere(stage):
    """Cut a frame at each place; the second part is sent when the first one has been read."""
    server = stage.start()
    client = server.connect()
    for cut in range(1, len(frame(b"to be cut"))):
        whole = frame(b"to be cut")
        client.send(whole[:cut])
        wait_for(lambda: not client.unread(), "the server reads the first part", server)
        client.send(whole[cut:])
        client.expect(whole)


@probe(row=5, title="a request is cut at every byte, with another one before and behind it",
       expect="P P P P P P P", look="where the bytes of the next message are, when one is complete",
       hint="what you have not used stays in the buffer, in front of what comes next")
def split_between_others(stage):
    """Each part is sent when the one before has been read, and has the beginning of the next."""
    server = stage.start()
    client = server.connect()
    whole, other = frame(b"EVLP\0\0\0\x05\r\n\xff"), frame(b"another one")
    three = other + whole + other
    for cut in range(len(other), len(other + whole) + 1):
        in_parts(client, three, [0, cut, len(three)])
    for size in range(1, len(whole) + 8):
        in_parts(client, three, [*range(0, len(three), size), len(three)])
    client.expect_nothing_more(three)


def in_parts(client, data, cuts):
    """Send it cut at these places, and receive all of it."""
    for begin, end in zip(cuts, cuts[1:]):
        client.send(data[begin:end])
        wait_for(lambda: not client.unread(), "the server reads this part", client.server)
    client.expect(data)


def lengths(most):
    """Around every power of two and of ten: of a whole frame, and of its payload."""
    powers = {1 << power for power in range(4, 21)} | {10 ** power for power in range(2, 7)}
    around = {power + more for power in powers for more in (-1, 0, 1)}
    return sorted({payload for length in around for payload in (length - 8, length)
                   if 0 <= payload <= most})


@probe(row=5, title="a message of any length: around each power of two and of ten",
       expect="P P P P P P P", look="recv(2), when as many bytes are there as the buffer takes",
       hint="a buffer that has become full says nothing about what is left: ask again")
def around_powers_of_two(stage):
    """Each alone, on a connection of its own, and as one of many. Nothing comes behind the answer.

    Stage 5 drops a client for which the kernel's buffers are too small.
    """
    server = stage.start()
    many = server.connect() if stage.number > 1 else None
    for size in lengths(64 * KIB if stage.number == 5 else MIB):
        message = frame(pattern(size))
        alone = server.connect()
        alone.exchange(message)
        alone.expect_nothing_more(message)
        alone.close()
        if many and size <= 64 * KIB + 1:
            many.exchange(message)


@probe(row=6, title="a message of any length, and the end of input right behind it",
       expect="P P P P P P P", look="recv(2): 0; epoll(7), Q9: a short read and the end",
       hint="read until recv() says 0 or EAGAIN: the end comes without an event of its own")
def end_behind_any_length(stage):
    """Both are there before the server looks, where the kernel's buffer takes so much."""
    server = stage.start()
    for size in lengths(32 * KIB):
        message = frame(pattern(size))
        server.pause()
        client = server.connect()
        client.send(message)
        client.half_close()
        server.resume()
        client.expect(message)
        client.expect_end(message)
        client.close()


@probe(row=5, title="1,000 requests in one segment are all answered", expect="P P P P P P P",
       look="recv(2), send(2)", hint="several messages may come at once; answer them all")
def thousand_in_one(stage):
    """1,000 small frames in one send()."""
    many = b"".join(frame(str(i).encode()) for i in range(1000))
    client = stage.start().connect()
    client.send(many)
    client.expect(many)


@probe(row=6, title="data, then the end of it: every byte comes back", expect="P P P P P P P",
       look="recv(2): 0 is the end of what the client sends, not of what it reads",
       hint="close only after everything has been sent")
def data_then_end(stage):
    """Data and FIN are both there before the server looks."""
    server = stage.start()
    client = server.connect()
    server.pause()
    client.send(frame(b"last words"))
    client.half_close()
    server.resume()
    client.expect(frame(b"last words"))
    client.expect_end(frame(b"last words"))


@probe(row=6, title="8 MB, then half-close, to a client that reads slowly",
       expect="P P P P L:drops P P", look="send(2): EAGAIN; shutdown(2)",
       hint="keep what send() does not take, and close when it has all gone")
def slow_half_close(stage):
    """The client reads 4 KiB only when it cannot send, and the rest after its FIN."""
    server = stage.start()
    client = server.connect(rcvbuf=16 * 1024)
    flood = Flood(client, 8 * MIB)
    try:
        while flood.sent < flood.total:
            if not flood.push():
                flood.wait(sending=True)
                flood.pull(4096)
        client.half_close()
        while flood.received < flood.total:
            if not flood.pull(16 * 1024):
                flood.wait(sending=False)
    except Gone as gone:
        finish_dropped(flood, server, gone)
    client.expect_end("8 MB of frames")


@probe(row=8, title="a client stops reading, then reads on: 64 MB compared",
       expect="P P P P L:drops P P", look="send(2): a part, or EAGAIN",
       hint="send() may take a part: go on with the rest, in order")
def stop_and_go(stage):
    """Nothing is read until nothing moves any more; then everything."""
    server = stage.start()
    client = server.connect()
    flood = Flood(client, 64 * MIB)
    try:
        flood.push_until_stuck()
        flood.drain()
        client.half_close()
    except Gone as gone:
        finish_dropped(flood, server, gone)
    client.expect_end("64 MB of frames")


@probe(row=17, title="an urgent byte does not disturb the stream", expect="P P P P P P P",
       look="send(2): MSG_OOB; select(2): exceptfds; poll(2): POLLPRI",
       hint="do not ask for urgent data: recv() skips it")
def urgent_byte(stage):
    """A byte out of band is not part of the stream; what is around it comes back."""
    client = stage.start().connect()
    client.roundtrip()
    client.send(frame(b"before"))
    try:
        client.sock.send(b"!", socket.MSG_OOB)
    except OSError as error:
        raise Gone(error.strerror) from None
    client.send(frame(b"after"))
    client.expect(frame(b"before"))
    if not stage.own:
        skip_inline(client)
    client.expect(frame(b"after"))
    client.half_close()
    client.expect_end()


@probe(row=17, title="an urgent byte, and nothing behind it: all others are served",
       expect="- P P P P P P", look="poll(2): POLLPRI, select(2): exceptfds, which recv() leaves",
       hint="do not ask for urgent data: it is reported again and again, and recv() has nothing")
def urgent_byte_alone(stage):
    """The server may wake up for it. It must not wait for more, nor look at it for ever."""
    server = stage.start()
    client, other = server.connect(), server.connect()
    for each in (client, other):
        each.roundtrip()
    for _ in range(3):
        try:
            client.sock.send(b"!", socket.MSG_OOB)
        except OSError as error:
            raise Gone(error.strerror) from None
        client.sent += not stage.own  # with SO_OOBINLINE it comes back
        for _ in range(3):
            other.roundtrip()
        wait_for(server.asleep, "it sleeps again", server)


def skip_inline(client):
    """With SO_OOBINLINE, which a runtime may set, it is part of the stream: socket(7)."""
    client.wait(what="an answer")
    if client.sock.recv(1, socket.MSG_PEEK) == b"!":
        client.try_receive(1)
        client.sent += 1


@probe(row=17, title="an empty frame, and a long one byte by byte", expect="P P P P P P P",
       look="recv(2)", hint="a payload of 0 bytes is a message, too")
def empty_and_dribbled(stage):
    """A frame without payload, then 500 single bytes, then the end."""
    client = stage.start().connect()
    client.roundtrip(b"")
    whole = frame(bytes(range(250)) * 2)
    for i in range(len(whole)):
        client.send(whole[i:i + 1])
    client.expect(whole)
    client.half_close()
    client.expect_end()
