"""The two rules that every server keeps, and the least that an echo server does."""

from tests.harness import Fail, Gone, frame, probe

BURST = 100  # clients that come at once in rows 2, 11 and 28


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
    try:
        for message in (frame(b"one"), frame(b"two") + frame(bytes(range(256)) * 4)):
            client.send(message)
            client.expect(message)
            client.expect_nothing_more(message)
    except Fail as fail:
        explain(fail, client)
        raise
    if stage.own and server.more_stdout():
        raise Fail(f"{server.more_stdout()!r} on stdout", expected="the line, and nothing else")


def explain(fail, client):
    """Two mistakes about what a message is can be told from the answer."""
    if client.received == len(b"EVLP"):  # and then comes a byte 00
        fail.seen += ". The answer ends before the first byte 00"
        fail.look = "recv(2): it returns a number of bytes, and no string that ends with a 00"
        fail.hint = "send as many bytes as recv() has returned; strlen() and %s know nothing of it"
    elif client.received == 0 and answers_to_a_newline(client):
        fail.seen += ". After a newline, an answer comes"
        fail.look = "what it waits for: there may never be a newline in what a client sends"
        fail.hint = "send back what recv() gives, when it gives it: no fgets(), no readline()"


def answers_to_a_newline(client):
    """Was it waiting for the end of a line?"""
    try:
        client.try_send(b"\n")
        client.wait(what="an answer")
        return bool(client.try_receive())
    except (Fail, Gone):
        return False


@probe(row=0, title="its queue has room for 100 clients that come at once", expect="P P P P P P P",
       look="listen(2): backlog", hint="listen(fd, SOMAXCONN); your runtime's call has it, too")
def long_queue(stage):
    """A client that finds no room there waits for a second and more, and then asks again."""
    room = stage.start().backlog()
    if room is not None and room < BURST:
        raise Fail(f"room for {room}", expected=f"room for {BURST} or more: rows 2, 3, 11 and 28 "
                                                "cannot be tried without it")
    if room is not None and room < 1500:
        stage.note(f"room for {room}; where more come at once (rows 3, 4 and 31), some may have to "
                   "wait, and those who get no room are left out")
