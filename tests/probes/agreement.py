"""The two rules that every server keeps, and the least that an echo server does."""

from tests.harness import Fail, frame, probe


@probe(row=0, title="takes --port, says where it listens, and echoes", expect="P P P P P P P",
       look="bind(2), listen(2), accept(2), recv(2), send(2)",
       hint="listen first, then print the line and flush; send back what recv() gave, all of it")
def agreement(stage):
    """Its stdout is full when it writes its line: it must be listening by then.

    One client, which stays: all else is asked for by the other rows.
    """
    server = stage.start(plugged=True)
    if server.early:
        raise Fail(f"when it writes {server.line!r} it does not listen yet",
                   expected="the line comes when clients can connect: listen() first")
    client = server.connect()
    client.roundtrip(b"one")
    client.send(frame(b"two") + frame(bytes(range(256)) * 4))
    client.expect(frame(b"two") + frame(bytes(range(256)) * 4))
    if stage.own and server.more_stdout():
        raise Fail(f"{server.more_stdout()!r} on stdout", expected="the line, and nothing else")
