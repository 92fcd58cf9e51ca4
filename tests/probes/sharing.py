"""Many clients: who is served, when, and at what price."""

from harness import Fail, Lesson, frame, probe


def starves(client, busy):
    """Nobody will read what `client` has sent: the server sleeps, and not to wait for clients.

    A server that sleeps in a call on one connection cannot notice another one.
    """
    calls = client.server.calls()
    return bool(calls) and client.unread() > 0 and busy(calls)


@probe(row=1, title="the second client is served while the first one idles",
       expect="L:waits P P P P P P", look="accept(2), recv(2)",
       hint="recv() on one client waits for that client alone; ask select() who is ready")
def second_client(stage):
    """The first client has talked and is silent. The second one wants an answer."""
    server = stage.start()
    first, second = server.connect(), None
    first.roundtrip()
    second = server.connect()
    second.send(frame(b"me too"))
    while not second.readable():
        server.check_alive()
        if starves(second, lambda calls: True):
            first.roundtrip()  # the server is well, and yet:
            if not starves(second, lambda calls: True):
                continue
            seen = f"{server.describe()}; the second client's {second.unread()} bytes are unread"
            first.close()
            second.expect(frame(b"me too"))
            raise Lesson(f"{seen}. When the first has left, the second is served", "waits")
    second.expect(frame(b"me too"))
    first.roundtrip()
