"""Bytes: all of them, in order, however they are cut."""

import socket

from tests.outside import kernel

from tests.harness import KIB, MIB, Gone, frame, probe, wait_for
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


@probe(row=6, title="the end of input comes while output is held for one that reads late",
       expect="P P P P L:drops P P", look="recv(2): 0; send(2): EAGAIN",
       hint="it has finished sending, not reading: close when all has gone")
def end_while_output_is_held(stage):
    """The server has read all, and could not send all, when the end of input comes.

    Frame by frame, so that even one that soon stops reading holds some when it has read all.
    """
    server = stage.start()
    client = server.connect(rcvbuf=16 * 1024)
    flood = Flood(client, 64 * MIB, size=4 * KIB)

    def held():
        """Bytes that are neither in its kernel's buffers nor in ours: the server has them."""
        far, near = client.far_end(), client.near_end()
        if not far or not near:
            flood.pull()  # raises Gone: it has closed
            return 0
        return flood.sent - near.unsent - far.unread - far.unsent - near.unread

    def blocked():
        """It sleeps in send(): a server that holds nothing."""
        return kernel.SENDING.intersection(server.calls() or ())

    def stopped():
        """It sleeps, several looks in a row, and leaves unread what is there."""
        return all(server.asleep() and client.unread() for _ in range(20))

    def taken():
        held()  # raises Gone
        return server.asleep() and not client.unread() or blocked() or stopped()

    def holds_some():
        before = held()
        return server.asleep() and held() == before > 0

    try:
        while not (blocked() or client.unread() or holds_some()) and flood.sent < flood.total:
            flood.push(flood.size)
            wait_for(taken, "the server holds output, or stops reading", server)
        flood.stop()
        wait_for(lambda: flood.push() >= 0 and flood.sent == flood.total, "its end", server)
        client.half_close()
        flood.drain()
    except Gone as gone:
        finish_dropped(flood, server, gone)
    client.expect_end("frames")


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
    client.expect(frame(b"before") + frame(b"after"))
    client.half_close()
    client.expect_end()


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
