"""Bytes: all of them, in order, however they are cut."""

from harness import frame, probe


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
        while client.unread():
            server.check_alive()
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
