"""Tests of the tests: servers that are wrong in one way each, and what check.py says of them.

They are small programs in Python, run as a reader's own server is: only by --port and the line.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from unittest import mock

from tests import harness
from tests import probes
from tests.learn import check
from tests.probes import leaving
from tests.self import holding_server

# {on_start}, {reply} and so on are replaced by what makes a server wrong.
ONE_AT_A_TIME = """\
    #!{python}
    import os, signal, socket, sys, time
    port = int(sys.argv[sys.argv.index("--port") + 1])
    {on_start}
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    {before_line}
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    while True:
        {before_accept}
        try:
            client, _ = listener.accept()
        except OSError as error:
            print("accept:", error.strerror, file=sys.stderr, flush=True)
            time.sleep(0.2)
            continue
        total = 0
        with client:
            try:
                while data := client.recv(65536):
                    total += len(data)
                    {reply}
            except OSError:
                pass
    """

THREAD_EACH = """\
    #!{python}
    import socket, sys, threading, time
    def serve(client):
        with client:
            try:
                while data := client.recv(65536):
                    {reply}
            except OSError:
                pass
    port = int(sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    while True:
        time.sleep(0.002)  # is no refusal
        try:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
        except OSError as error:
            print("accept:", error.strerror, file=sys.stderr, flush=True)
            time.sleep(0.2)
    """

# Edge-triggered, and told by its parts what it forgets.
EDGES = """\
    #!{python}
    import select, socket, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    {for_listener}
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    epoll, clients = select.epoll(), {{}}
    epoll.register(listener, select.EPOLLIN | select.EPOLLET)
    def step(fd):
        while fd == listener.fileno():
            client, _ = listener.accept()
            client.setblocking(False)
            clients[client.fileno()] = client
            epoll.register(client, select.EPOLLIN | select.EPOLLET)
        try:
            while data := clients[fd].recv(65536):
                clients[fd].sendall(data)
        except BlockingIOError:
            {at_eagain}
    while True:
        for fd, _ in epoll.poll():
            try:
                step(fd)
            except OSError as error:
                if fd != listener.fileno():
                    print(repr(error), file=sys.stderr, flush=True)
                    clients.pop(fd).close()
    """

# Level-triggered, with blocking clients, as stage 4: {asked} of each client.
LEVEL = """\
    #!{python}
    import os, select, socket, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    epoll, clients = select.epoll(), {{}}
    epoll.register(listener, select.EPOLLIN)
    while True:
        events = epoll.poll()
        for at in range(len(events)):
            fd = events[at][0]
            try:
                if fd == listener.fileno():
                    client, _ = listener.accept()
                    clients[client.fileno()] = client
                    {at_accept}
                    epoll.register(client, {asked})
                elif data := clients[fd].recv(65536):
                    clients[fd].sendall(data)
                else:
                    raise OSError
            except OSError:
                if fd in clients:
                    clients.pop(fd).close()
                    {at_close}
    """

MANY_AT_ONCE = """\
    #!{python}
    import asyncio, sys
    {on_start}
    async def serve(reader, writer):
        try:
            while data := await reader.read(65536):
                {reply}
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
    async def main():
        port = int(sys.argv[sys.argv.index("--port") + 1])
        server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=4096)
        print("mine listening on 127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()
    asyncio.run(main())
    """


# As stage 6. Who leaves, or breaks, goes through drop().
BUFFERS = """\
    #!{python}
    import select, socket, sys
    class Client:
        def __init__(self, sock):
            self.sock, self.out = sock, bytearray()
    def drop(client):
        del clients[client.sock.fileno()]
        client.sock.close()
        {at_close}
    port = int(sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    epoll, clients, kept = select.epoll(), {{}}, []
    epoll.register(listener, select.EPOLLIN)
    while True:
        for fd, events in epoll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                sock.setblocking(False)
                client = clients[sock.fileno()] = Client(sock)
                {at_accept}
                epoll.register(sock, select.EPOLLIN)
                continue
            client = clients[fd]
            try:
                if events & ~select.EPOLLOUT and len(client.out) < 1 << 17:
                    client.out += client.sock.recv(65536) or drop(client)
                del client.out[:client.sock.send(client.out)]
            except BlockingIOError:
                pass
            except OSError:
                drop(client)
            except TypeError:
                continue
            if fd in clients:
                {when_held}
                full = len(client.out) >= 1 << 17
                epoll.modify(fd, select.EPOLLIN * (not full)
                             | select.EPOLLOUT * bool(client.out))
    """

# A few threads share all clients, and each waits in send() as a thread for one client may.
FEW_THREADS = """\
    #!{python}
    import select, socket, sys, threading
    def serve(epoll):
        while True:
            for fd, _ in epoll.poll():
                try:
                    if data := clients[fd].recv(65536):
                        clients[fd].sendall(data)
                        continue
                except OSError:
                    pass
                clients.pop(fd).close()
    port = int(sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    clients, epolls = {{}}, [select.epoll() for _ in range(16)]
    for epoll in epolls:
        threading.Thread(target=serve, args=(epoll,), daemon=True).start()
    while True:
        client, _ = listener.accept()
        clients[client.fileno()] = client
        epolls[client.fileno() % 16].register(client, select.EPOLLIN)
    """

# A process for each client. What comes of it when this one has left?
FORKS = """\
    #!{python}
    import os, signal, socket, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    {on_start}
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        if os.fork():
            client.close()
            continue
        try:
            while data := client.recv(65536):
                client.sendall(data)
        except OSError:
            pass
        client.close()
        {at_close}
    """


def script(text, **parts):
    """A server as a text, with its parts filled in."""
    defaults = {"python": sys.executable, "on_start": "pass", "before_line": "pass",
                "before_accept": "pass", "reply": "client.sendall(data)", "for_listener": "pass",
                "at_eagain": "return", "at_accept": "pass", "at_close": "pass",
                "asked": "select.EPOLLIN", "when_held": "pass"}
    return textwrap.dedent(text).format(**{**defaults, **parts})


class ReadersServer(unittest.TestCase):
    """Each server is written to a file and checked as `make check-N SERVER=file` does."""

    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.addCleanup(self.place.cleanup)

    def check(self, text, rows="0", stage=1, mode=0o755, option="--rows"):
        """check.py's exit status and output for a server with this text."""
        return self.check_path(self.written(text, mode), rows, stage, option)

    def written(self, text, mode=0o755):
        """The path of a server with this text."""
        path = os.path.join(self.place.name, "mine")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def check_path(self, path, rows="0", stage=1, option="--rows"):
        """The same for a file that is there, or not."""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        done = subprocess.run([sys.executable, "-m", "tests.learn.check", str(stage),
                               "--server", path, option, rows], encoding="utf-8",
                              cwd=harness.ROOT, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        return done.returncode, " ".join(done.stdout.split())

    def verdict(self, text, name, stage):
        """What one probe makes of it. Each probe beside it would burn as much CPU time."""
        probes.load()
        asked, = [probe for probe in harness.PROBES if probe.run.__name__ == name]
        return harness.run_cell(asked, stage, [self.written(text)])

    def assert_nobody_left(self):
        """No process of this server is there any more."""
        path = os.path.join(self.place.name, "mine")
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as file:
                    self.assertNotIn(path, file.read())
            except (FileNotFoundError, ProcessLookupError):
                pass  # it has ended meanwhile

    def assert_caught(self, result, *messages):
        """Not accepted, and each of these was said."""
        status, output = result
        self.assertNotEqual(status, 0, output)
        for message in messages:
            self.assertIn(message, output)
        self.assertRegex(output, r"\b[1-9]\d* failed")


class WrongServers(ReadersServer):
    """Servers that are wrong in one way are caught, and the right thing is said."""

    def test_a_byte_too_many(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data + b'!')")
        self.assert_caught(self.check(text), "all bytes are right, and then 1 too many")

    def test_a_byte_too_many_at_the_end(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data + b'!' * (total == 18))")
        self.assert_caught(self.check(text, "6"), "1 byte: 21 too many", "then end of file")

    def test_drops_the_tail(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data[:1000])")
        self.assert_caught(self.check(text), "1,000 of 1,043 bytes came",
                           "nothing more comes", "recv()")

    def test_wrong_byte(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data.replace(b'e', b'E'))")
        self.assert_caught(self.check(text), "byte 10 differs")

    def test_swaps_the_order(self):
        text = script(ONE_AT_A_TIME,
                      reply="h = len(data) // 2; client.sendall(data[h:] + data[:h])")
        self.assert_caught(self.check(text), "byte 0 differs", "expected 8 bytes: 45 56 4c 50")

    def test_hangs_after_some_bytes(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data) if total < 50_000 else None")
        self.assert_caught(self.check(text, "0,8"), "2 passed, 3 failed", "recv()")

    def test_crashes(self):
        for name in ("SIGSEGV", "SIGABRT"):
            text = script(ONE_AT_A_TIME, reply=f"os.kill(os.getpid(), signal.{name})")
            self.assert_caught(self.check(text), f"the server was killed by {name}",
                               "of the interpreter")

    def test_killed_by_sigpipe(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGPIPE, signal.SIG_DFL)")
        result = self.check(text, "9")
        self.assert_caught(result, "the server was killed by SIGPIPE", "MSG_NOSIGNAL",
                           "look at: recv(2): ECONNRESET")
        self.assertNotIn("gdb", result[1])
        self.assertNotIn("hint:", result[1])
        self.assertIn("HINT=9", result[1])

    def test_hints_are_shown_when_they_are_asked_for(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGPIPE, signal.SIG_DFL)")
        result = self.check(text, "9", option="--hint")
        self.assert_caught(result, "hint: give send() MSG_NOSIGNAL", "closes that one",
                           "This server fails row 9 of stage 1.")

    def test_ends_with_an_exception(self):
        text = script(ONE_AT_A_TIME, reply="raise ValueError('no')")
        self.assert_caught(self.check(text), "exited with status 1", "ValueError: no")

    def test_closes_early(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data); break")
        self.assert_caught(self.check(text), "and then the connection ends (end of file)")

    def test_never_prints_the_line(self):
        text = script(ONE_AT_A_TIME).replace("print(\"mine", "str(\"mine")
        text = text.replace(", flush=True)\nwhile", ")\nwhile")
        self.assert_caught(self.check(text), "listens on port", "flush stdout", "accept4()")

    def test_does_not_flush_the_line(self):
        text = script(ONE_AT_A_TIME).replace(", flush=True)\nwhile", ")\nwhile")
        self.assert_caught(self.check(text), "listens on port", "flush stdout")

    def test_prints_something_else(self):
        text = script(ONE_AT_A_TIME).replace("mine listening on", "mine is at")
        self.assert_caught(self.check(text), "the line 'mine is at 127.0.0.1:",
                           "listening on HOST:PORT")

    def test_prints_the_line_before_it_listens(self):
        early = "port = port or 20_000 + os.getpid() % 10_000; " \
            "print('mine listening on 127.0.0.1:%d' % port, flush=True)"
        text = script(ONE_AT_A_TIME, on_start=early)
        self.assert_caught(self.check(text), "does not listen yet", "listen() first")

    def test_what_does_not_start_is_said_once(self):
        text = script(ONE_AT_A_TIME, on_start="sys.exit(3)")
        result = self.check(text, "0,1,2")
        self.assert_caught(result, "0 passed, 1 failed, 3 not run because it does not start",
                           "has not passed anything of stage 1 yet")

    def test_a_row_that_is_not_there(self):
        self.assert_caught(self.check(script(ONE_AT_A_TIME), "99", option="--hint"),
                           "none of these rows is asked of stage 1")

    def test_nor_is_it_said_for_each_row_that_was_asked_for(self):
        text = script(ONE_AT_A_TIME, on_start="sys.exit(3)")
        result = self.check(text, "9,18")
        self.assert_caught(result, "not run because it does not start", "status 3")
        self.assertEqual(result[1].count(" FAIL "), 1, result[1])

    def test_puts_itself_into_the_background(self):
        text = script(ONE_AT_A_TIME, before_accept="time.sleep(0)")
        leaves = "if os.fork(): os._exit(0)\nos.setsid()\n"
        text = text.replace("while True:\n    time", leaves + "while True:\n    time")
        self.assertIn("setsid", text)
        self.assert_caught(self.check(text), "exited with status 0", "stays in the foreground")
        self.assert_nobody_left()

    def test_its_words_do_not_reach_the_terminal_as_they_are(self):
        text = script(ONE_AT_A_TIME, on_start="sys.exit('\\x1b]2;red \\x1b[41mblue')")
        self.assert_caught(self.check(text), "\\x1b]2;red blue")

    def test_a_short_backlog_is_named_once(self):
        text = script(ONE_AT_A_TIME).replace("backlog=4096", "backlog=5")
        result = self.check(text, "0,2,3,11")
        self.assert_caught(result, "room for 5 look at: listen(2): backlog",
                           "not tried: there is too little room in its queue: see row 0")
        self.assertEqual(result[1].count(" FAIL "), 1, result[1])

    def test_exits_at_once(self):
        text = script(ONE_AT_A_TIME, on_start="sys.exit('no such luck')")
        self.assert_caught(self.check(text), "exited with status 1", "no such luck")

    def test_cannot_be_run(self):
        self.assert_caught(self.check("no program\n"), "Exec format error", "#!")
        self.assert_caught(self.check(script(ONE_AT_A_TIME), mode=0o644), "Permission denied")
        self.assert_caught(self.check_path("/nonexistent/mine"), "no such program")
        self.assert_caught(self.check_path("nonexistent -x"), "no such program")
        self.assert_caught(self.check_path(self.place.name), "a directory: which program in it?")
        self.assert_caught(self.check_path("/dev/null"), "that is no file")
        self.assert_caught(self.check_path(""), "no program is named")
        self.assert_caught(self.check_path("it's"), "No closing quotation")
        link = os.path.join(self.place.name, "a link")
        os.symlink("nowhere", link)
        self.assert_caught(self.check_path(link), "a link to a file that is gone")

    def test_the_interpreter_of_a_script_cannot_be_run(self):
        body = "print('mine')\n"
        self.assert_caught(self.check(f"#!/usr/bin/nonesuch -x\n{body}"),
                           "its first line asks for /usr/bin/nonesuch")
        dos = "carriage return at its end: save it with the line ends of Unix"
        self.assert_caught(self.check(f"#!{sys.executable}\r\n{body}"), dos)
        self.assert_caught(self.check(f"#!/usr/bin/env python3\r\n{body}"), dos)
        self.assert_caught(self.check(""), "the file is empty")

    def test_a_program_for_other_machines_cannot_be_run(self):
        """Fields of the header: elf(5)."""
        whole = pathlib.Path(os.path.join(os.environ.get("BUILD", harness.BUILD), "01-blocking"))
        whole = bytearray(whole.read_bytes())
        loader = whole.index(b"/ld-linux")
        for at, field, words in ((18, b"\0\0", "another kind of processor"),
                                 (16, b"\1\0", "compiled, and not linked"),
                                 (32, b"\xff" * 8, "the file is damaged"),
                                 (loader, b"/no", "the loader that it asks for is missing")):
            with self.subTest(words):
                program = whole[:]
                program[at:at + len(field)] = field
                path = os.path.join(self.place.name, "altered")
                with open(path, "wb") as file:
                    file.write(program)
                os.chmod(path, 0o755)
                self.assert_caught(self.check_path(path), words)

    def test_an_event_that_is_overwritten_by_a_new_client(self):
        text = script(LEVEL, at_accept="events[at + 1:at + 2] = [(client.fileno(), 1)] * "
                      "len(events[at + 1:at + 2])")
        self.assert_caught(self.check(text, "2", 4), "all in one turn", "sleeps in recv()",
                           "which event is about whom?")
        self.assertEqual(self.check(script(LEVEL), "2", 4)[0], 0)

    def test_one_buffer_for_all_threads(self):
        text = script(THREAD_EACH, reply="client.sendall(kept)")
        text = text.replace("data := client.recv(65536)", "size := client.recv_into(buffer)")
        text = text.replace("client.sendall(kept)", "client.sendall(memoryview(buffer)[:size])")
        text = text.replace("def serve", "buffer = bytearray(65536)\ndef serve")
        self.assert_caught(self.check(text, "7", 3), "differs", "two use one buffer")

    def test_a_client_that_is_not_armed_again(self):
        text = script(LEVEL, asked="select.EPOLLIN | select.EPOLLONESHOT")
        self.assert_caught(self.check(text, "0", 4), "EPOLLONESHOT has fired")
        text = script(LEVEL, asked="select.EPOLLOUT | select.EPOLLET")
        self.assert_caught(self.check(text, "0", 4), "does not ask for EPOLLIN")
        text = script(LEVEL, asked="select.EPOLLIN); epoll.unregister(client")
        self.assert_caught(self.check(text, "0", 4), "this client is not in the list")

    def test_a_number_that_is_closed_twice(self):
        text = script(LEVEL, at_close="clients and "  # as close(2) would, it throws nothing
                      "__import__('ctypes').CDLL(None).shutdown(min(clients), 2)")
        self.assert_caught(self.check(text, "2", 4), "who closes this one?")

    def test_an_end_that_is_a_reset(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data); client.setsockopt("
                      "socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0' + bytes(4))")
        self.assert_caught(self.check(text, "6"), "with SO_LINGER and 0")

    def test_threads_that_nobody_joins(self):
        server = mock.Mock(own=True, memory_kib=mock.Mock(side_effect=[0, 1 << 30]))
        visits = leaving.Visits(server)
        with mock.patch.object(visits, "_visit", side_effect=harness.Fail("reset")), \
                self.assertRaises(harness.Fail) as raised:
            visits.come_and_go()
        self.assertIn("pthread_detach(3)", raised.exception.look)

    def test_who_ended_and_has_left_one_behind_that_keeps_stdout_open(self):
        text = script(ONE_AT_A_TIME, on_start="os.fork() and sys.exit('no room'); time.sleep(1000)")
        self.assert_caught(self.check(text), "exited with status 1, before it said", "no room")

    def test_where_it_did_not_start_its_own_words_are_what_counts(self):
        text = script(ONE_AT_A_TIME, on_start="sys.exit('\\x1b[31mno module of that name\\x1b[0m')")
        result = self.check(text)
        self.assert_caught(result, "Its last words: no module of that name look at: what it says "
                                   "when you start it so yourself")
        self.assertNotIn("hint", result[1])

    def test_leaks_descriptors(self):
        text = script(ONE_AT_A_TIME, on_start="kept = []", reply="client.sendall(data); "
                      "kept.append(client.dup()) if total < 20 else None")
        self.assert_caught(self.check(text, "9"), " more than before")

    def test_spins(self):
        ask_again = "[0 for _ in iter(lambda: bool(select.select([client], [], [], 0)[0]), True)]"
        text = script(ONE_AT_A_TIME, on_start="import select",
                      reply="client.sendall(data); " + ask_again)
        self.assert_caught(self.check(text, "15"), "goes in circles")

    def test_takes_all_memory(self):
        text = script(MANY_AT_ONCE, reply="writer.write(data)").replace("await writer.drain()",
                                                                        "pass")
        self.assert_caught(self.check(text, "7", stage=6), "its memory grew by")

    def test_a_listener_that_blocks(self):
        self.assert_caught(self.check(script(EDGES)), "sleeps in accept4()",
                           "look at: accept(2): without O_NONBLOCK on the listener")

    def test_nothing_yet_is_taken_for_the_end(self):
        text = script(EDGES, for_listener="listener.setblocking(False)", at_eagain="raise")
        self.assert_caught(self.check(text), "and then the connection ends (end of file). Its last "
                           "words: BlockingIOError", "Neither one answer nor EAGAIN is")

    def test_a_parent_that_keeps_what_its_child_serves(self):
        text = script(ONE_AT_A_TIME, on_start="kept = []; signal.signal(signal.SIGCHLD, "
                      "signal.SIG_IGN)").replace(
            "    total = 0\n", "    kept.append(client)\n    if os.fork():\n        continue\n"
            "    total = 0\n").replace("with client:", "if True:").replace(
            "            pass\n", "            pass\n        os._exit(0)\n")
        self.assert_caught(self.check(text, "17", stage=3), "look at: close(2): the server has a "
                           "descriptor of it yet. After fork(), two processes have one")

    def test_a_set_that_select_has_overwritten(self):
        text = script(ONE_AT_A_TIME, on_start="import select", reply="client.sendall(data); "
                      "select.select([listener], [], [])")
        self.assert_caught(self.check(text), "sleeps in select()", "it overwrites the sets")

    def test_an_exception_of_cpp_that_nothing_catches(self):
        said = "terminate called after throwing an instance of E\\n  what():  no more"
        text = script(ONE_AT_A_TIME, reply=f"print('{said}', file=sys.stderr, flush=True); "
                      "os.abort()")
        result = self.check(text)
        self.assert_caught(result, "by SIGABRT. Its last words: what(): no more",
                           "look at: the exception in its last words")
        self.assertNotIn("gdb", result[1])

    def test_an_answer_that_ends_before_a_00(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data.split(b'\\0')[0])")
        self.assert_caught(self.check(text), "The answer ends before the first byte 00",
                           "no string that ends with a 00")

    def test_an_answer_that_waits_for_a_newline(self):
        text = script(ONE_AT_A_TIME, on_start="lines = b''", reply="lines += data; "
                      "client.sendall(lines) if lines.endswith(b'\\n') else None")
        self.assert_caught(self.check(text), "After a newline, an answer comes",
                           "there may never be a newline")

    def test_a_restart_that_fails_is_one_row_and_its_hint_its_own(self):
        text = script(ONE_AT_A_TIME).replace(
            'socket.create_server(("127.0.0.1", port), backlog=4096)', "socket.socket()")
        text = text.replace("print(\"mine", "listener.bind(('127.0.0.1', port)); "
                            "listener.listen(4096)\nprint(\"mine", 1)
        result = self.check(text, "0,17,18,19")
        if "tcp_max_tw_buckets are full" in result[1]:  # others on this machine have filled them
            self.skipTest("nothing is in TIME_WAIT: net.ipv4.tcp_max_tw_buckets are full")
        self.assert_caught(result, "Address already in use", "SO_REUSEADDR", "19 P",
                           "but for row 18")
        self.assertNotIn("listen first", result[1])

    def test_the_line_about_the_error_is_quoted_and_not_the_last_one(self):
        said = "Error: the disk is full\\n    at serve (mine.js:3)\\n\\nNode.js v18.19.0"
        text = script(ONE_AT_A_TIME, reply=f"print('{said}', file=sys.stderr); os._exit(1)")
        self.assert_caught(self.check(text), "Its last words: Error: the disk is full;"[:-1])

    def test_what_was_injected_is_said(self):
        text = script(ONE_AT_A_TIME).replace("except OSError as error:", "except BlockingIOError:")
        self.assert_caught(self.check(text, "11"),
                           "(while every third accept() said ECONNABORTED)")

    def test_a_row_that_follows_from_another_says_so(self):
        self.assert_caught(self.check(script(ONE_AT_A_TIME), "0,1,3,31", stage=4),
                           "mend first: row 1: this one may only follow from it")

    def test_the_distance_is_measured(self):
        text = script(MANY_AT_ONCE, reply="writer.write(data)").replace(
            "writer.close()", "writer.transport.abort()")
        self.assert_caught(self.check(text, "0,1,2,6,9", stage=6),
                           "is stage 6, 06-write-buffering, but for row 6, as far")

    def test_inheritable_descriptors_are_a_row_of_their_own(self):
        text = script(ONE_AT_A_TIME).replace("        total = 0", "        os.set_inheritable("
                                             "client.fileno(), True)\n        total = 0", 1)
        text = text.replace("    total = 0\n", "    os.set_inheritable(client.fileno(), True)\n"
                            "    total = 0\n", 1)
        self.assert_caught(self.check(text, "19"), "stays open in a child process",
                           "P nothing is left after 10,000 clients")


class Sharing(ReadersServer):
    """What clients share, and what is left of them."""

    def test_two_have_one_place_in_a_table(self):
        text = script(BUFFERS, at_accept="client.out = kept.setdefault(fd_of(client), client.out)")
        text = text.replace("clients, kept =", "fd_of, clients, kept =").replace(
            "select.epoll(), {}, []", "select.epoll(), lambda c: c.sock.fileno() % 1024, {}, {}")
        self.assertIn("lambda", text)
        self.assert_caught(self.check(text, "7", 6), "differs", "number % size", "1 passed")

    def test_a_limit_for_all_together(self):
        text = script(BUFFERS, when_held="if sum(len(c.out) for c in clients.values()) > 1 << 20: "
                                         "epoll.modify(fd, 0); continue")
        self.assert_caught(self.check(text, "7", 6), "a limit, a thread", "1 passed")

    def test_a_few_threads_wait_in_send(self):
        self.assert_caught(self.check(script(FEW_THREADS), "7", 6), "send() on descriptor",
                           "a limit, a thread", "1 passed")

    def test_close_waits(self):
        linger = "client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0<\\0\\0\\0')"
        self.assert_caught(self.check(script(LEVEL, at_accept=linger), "6", 4), "sleeps in close()",
                           "SO_LINGER", "5 passed")

    def test_output_of_who_has_broken_is_kept(self):
        text = script(BUFFERS, at_close="kept.append(client.out)")
        self.assert_caught(self.check(text, "9", 6), "more memory after 60 clients", "2 passed")

    def test_it_goes_round_after_the_end_of_input(self):
        text = script(BUFFERS).replace("select.EPOLLIN * (not full)",
                                       "select.EPOLLIN * (not full) | select.EPOLLRDHUP")
        text = text.replace("recv(65536) or drop(client)", "recv(65536)")
        text = text.replace("events & ~select.EPOLLOUT and", "events & select.EPOLLIN and")
        verdict = self.verdict(text, "end_while_output_is_held", 6)
        self.assertIn("goes in circles", verdict.seen)
        self.assertIn("EPOLLRDHUP", verdict.look)

    def test_nothing_is_shared_and_nothing_is_left(self):
        status, output = self.check(script(BUFFERS), "7,9", 6)
        self.assertEqual(status, 0, output)

    def left(self, **parts):
        """What is said of the processes that stay behind a few clients."""
        path = self.written(script(FORKS, **parts))
        with harness.Server([path]) as server, mock.patch.object(leaving, "PROCESSES", 10):
            visits = leaving.Visits(server)
            visits.clients = 50
            before = leaving.started(server)
            visits.come_and_go()
            leaving.require_few_left(server, visits, before)

    def test_processes_that_nobody_waits_for(self):
        with self.assertRaises(harness.Fail) as caught:
            self.left(at_close="os._exit(0)")
        self.assertIn("50 have ended", str(caught.exception))
        self.assertIn("wait(2)", caught.exception.look)

    def test_children_that_accept_when_their_client_has_left(self):
        with self.assertRaises(harness.Fail) as caught:
            self.left(on_start="signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
        self.assertRegex(str(caught.exception), r"^\d\d children more .* 0 have ended")
        self.assertIn("accept()", caught.exception.look)

    def test_children_that_end(self):
        self.left(on_start="signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
                  at_close="os._exit(0)")


class Urgent(ReadersServer):
    """Bytes out of band, and lengths that are round in other ways."""

    def test_priority_is_asked_for_and_not_read(self):
        text = script(LEVEL, asked="select.EPOLLIN | select.EPOLLPRI")
        self.assert_caught(self.check(text, "17", 4), "sleeps in recv()", "POLLPRI", "2 passed")

    def test_it_goes_round_for_an_urgent_byte(self):
        text = script(BUFFERS).replace("register(sock, select.EPOLLIN)",
                                       "register(sock, select.EPOLLIN | select.EPOLLPRI)")
        text = text.replace("if events & ~", "if events & select.EPOLLIN and events & ~")
        text = text.replace("epoll.modify(fd, ", "epoll.modify(fd, select.EPOLLPRI | ")
        with mock.patch.dict(os.environ, TEST_SPIN_MS="500"):
            self.assert_caught(self.check(text, "17", 6), "POLLPRI")

    def test_a_full_buffer_of_a_round_size(self):
        text = script(ONE_AT_A_TIME).replace("recv(65536)", "recv(1000)").replace(
            "total += len(data)", "while not len(data) % 1000:\n                    data += "
            "client.recv(1000)\n                total += len(data)")
        self.assertIn("% 1000", text)
        self.assert_caught(self.check(text, "5"), "0 of 1,000 bytes came")


class Words(unittest.TestCase):
    """What is to be looked at, when a server is seen to do something."""

    def look(self, spins, calls=(), said=""):
        """What why_stuck() says of one in these calls, that has said this."""
        server = mock.Mock(blocked_calls=lambda: calls, said=lambda: said, pids=[1])
        return " ".join(harness.Server.why_stuck(server, spins))

    def test_where_it_sleeps(self):
        for call, words in (("accept4", "O_NONBLOCK on the listener"), ("poll", "in the array"),
                            ("select", "overwrites"), ("epoll_wait", "until EAGAIN"),
                            ("recvfrom", "until that client sends")):
            self.assertIn(words, self.look(False, [(call, [3])]))
        for calls in ["futex"], ["accept", "read"]:
            self.assertEqual(self.look(False, [(call, [3]) for call in calls]), " ")

    def test_two_threads_that_read_from_one_client(self):
        self.assertIn("not a pointer", self.look(False, [("accept", [3]), ("read", [9]),
                                                         ("read", [9])]))

    def test_what_it_does_without_end(self):
        self.assertIn("take it out of the set when you close it",
                      self.look(True, said=". Its last words: select: Bad file descriptor"))
        self.assertIn("POLLHUP", self.look(True))

    def dead(self, code, said="", program=sys.executable):
        """What is to be looked at when it has ended so, and has said this before."""
        server = mock.Mock(process=mock.Mock(returncode=code), command=[program, "--port", "0"],
                           stderr=lambda: said, last_words=lambda: said)
        return " ".join(harness.Server._why_dead(server))

    def test_the_ways_to_abort(self):
        for said, words in (
                ("terminate called without an active exception", "before join() or detach()"),
                ("terminate called after throwing an instance of 'E'", "nothing catches it"),
                ("mine: mine.c:7: main: Assertion `n > 0' failed.", "it names the line"),
                ("*** stack smashing detected ***: terminated", "does not own"),
                ("free(): double free detected in tcache 2", "what is freed twice")):
            self.assertIn(words, self.dead(-signal.SIGABRT, said))
            self.assertNotIn("gdb", self.dead(-signal.SIGABRT, said))
        self.assertIn("and why? gdb --args", self.dead(-signal.SIGABRT))

    def test_where_there_is_no_debugger_it_says_how_to_get_it(self):
        for code in (-signal.SIGSEGV, 128 + signal.SIGSEGV):  # as a shell tells it
            self.assertIn("-fsanitize=address", self.dead(code))
            with mock.patch("shutil.which", lambda name: None):
                self.assertIn("(apt-get install gdb); then run", self.dead(code))
            self.assertNotIn("gdb", self.dead(code, program=holding_server.__file__))

    def test_what_tells_most_comes_first_and_once(self):
        probes.load()
        late = harness.Probe(None, 9, "late", "P P P P P P P", "send(2)", "", False, "")
        first = harness.Probe(None, 0, "first", "P P P P P P P", "bind(2), send(2)", "", False, "")

        def places(probe, look, before=()):
            verdict = harness.Verdict("F", "", "", "", "", [], 0, look)
            return list(check.places(probe, verdict, [(probe, verdict)] * len(before)))
        self.assertEqual(places(late, harness.ENDED), ["send(2)", harness.ENDED])
        self.assertEqual(places(late, "SIGPIPE"), ["SIGPIPE", "send(2)"])
        self.assertEqual(places(late, "send(2)"), ["send(2)"])
        self.assertEqual(places(late, "SIGPIPE", "before"), ["send(2)"])
        self.assertEqual(places(first, harness.ENDED), [harness.ENDED])
        self.assertEqual(places(first, ""), ["bind(2), send(2)"])

    def test_one_is_no_plural(self):
        self.assertEqual([harness.counted(n, "byte") for n in (0, 1, 1500)],
                         ["0 bytes", "1 byte", "1,500 bytes"])
        self.assertEqual(harness.show(b"!"), "1 byte: 21")
        self.assertEqual(harness.difference(b"EV", b"E"),
                         "1 byte came back right, then nothing more came")
        one, two = (harness.Verdict("F", "", f"{harness.counted(n, 'byte')} of this client unread",
                                    "", "", [], 0) for n in (1, 2))
        self.assertEqual(check.pattern(one), check.pattern(two))
        self.assertTrue(check.waits(one) and check.waits(two))

    def test_a_number_and_its_noun_agree_everywhere(self):
        """A number that is put before a plural will be 1 one day: counted() knows."""
        plural = re.compile(r"\{[^{}]*[a-z][^{}]*\}( \w+)? (bytes|clients|connections|descriptors|"
                            "processes|threads|wake-ups|calls|signals|probes|messages|"
                            "lines|rows)\\b")
        for folder in "probes", "harness", "learn":
            for path in pathlib.Path(harness.ROOT, "tests", folder).glob("*.py"):
                for at, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                    self.assertNotRegex(line, plural, f"{path}:{at}")

    def test_of_one_that_never_stops_talking_the_end_is_read(self):
        with tempfile.TemporaryFile() as file:
            file.write(b"the first line\n" + b"again\n" * 1_000_000 + b"the last line\n")
            file.flush()
            said = harness.Server.stderr(mock.Mock(stderr_file=file))
        self.assertTrue(said.endswith("again\nthe last line\n"))
        self.assertLess(len(said), 2_000_000)


# A probe, and the servers of holding_server.py that it finds.
FINDS = {
    "split_between_others": ["drops-a-begun-header", "drops-what-is-behind",
                             "leaves-a-second-one"],
    "around_powers_of_two": ["ends-a-full-buffer", "counts-in16-bits", "full-is-empty",
                             "full-then-empty-is-an-end"],
    "end_behind_any_length": ["full-is-empty"],
    "held_to_the_byte": ["hits-the-mark", "cuts-at-its-cap"],
    "back_and_forth": ["resumes-in-a-step-across", "keeps-half"],
    "end_and_room_at_once": ["closes-after-a-part", "forgets-at-the-end", "writes-or-reads"],
    "end_while_output_is_held": ["forgets-to-close"],
    "wakes_only_when_needed": ["polls", "looks-sometimes", "naps"],
    "agreement": ["ends-a-line", "repeats"],
}


class ServersThatLoseBytes(unittest.TestCase):
    """Right in ordinary traffic, and wrong at one place: each kind has a probe that finds it."""

    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.addCleanup(self.place.cleanup)
        probes.load()

    def verdict(self, name, kind):
        """What a probe says of a server of this kind, as of a reader's stage 6."""
        path = os.path.join(self.place.name, kind)
        if not os.path.exists(path):
            os.symlink(holding_server.__file__, path)
        chosen = next(p for p in harness.PROBES if p.run.__name__ == name)
        return harness.run_cell(chosen, 6, [sys.executable, path],
                                os.environ.get("BUILD", harness.BUILD))

    def test_each_is_found(self):
        for name, kinds in FINDS.items():
            for kind in kinds:
                with self.subTest(probe=name, server=kind):
                    verdict = self.verdict(name, kind)
                    self.assertEqual(verdict.outcome, "F", verdict)
                    self.assertNotEqual(verdict.kind, "probe", verdict)

    def test_the_right_one_passes(self):
        for name in FINDS:
            for kind in ("right", "frames"):
                with self.subTest(probe=name, server=kind):
                    self.assertEqual(self.verdict(name, kind).outcome, "P")

    def test_none_is_forgotten(self):
        found = {kind for kinds in FINDS.values() for kind in kinds}
        self.assertEqual(found, set(holding_server.kinds()) - {"right", "frames"})


class RightServers(ReadersServer):
    """Servers that are right reach their stage."""

    def test_one_at_a_time_reaches_stage_1(self):
        status, output = self.check(script(ONE_AT_A_TIME), "0,1,2,5,6,7,8,9,12,15,17,18,19")
        self.assertEqual(status, 0, output)
        self.assertIn("is stage 1, 01-blocking, as far", output)

    def test_asyncio_is_better_than_stage_4_asks(self):
        text = script(MANY_AT_ONCE, reply="writer.write(data)")
        status, output = self.check(text, "0,1,2,3,5,6,7,8,9,16,17", stage=4)
        self.assertEqual(status, 0, output)
        self.assertIn("more than stage 4 asks", output)

    def test_a_thread_for_each_client_is_better_than_stage_1_asks(self):
        status, output = self.check(script(THREAD_EACH), "0,1,3,7,12")
        self.assertEqual(status, 0, output)
        self.assertIn("more than stage 1 asks", output)

    def test_the_mark_may_be_low(self):
        text = script(MANY_AT_ONCE, reply="writer.write(data)")
        text = text.replace("backlog=4096", "backlog=4096, limit=4096")
        text = text.replace("    try:\n", "    writer.transport.set_write_buffer_limits(4096)\n"
                            "    try:\n", 1)
        status, output = self.check(text, "6,7,8", stage=6)
        self.assertEqual(status, 0, output)

    def test_a_command_with_arguments_and_a_path_with_spaces(self):
        path = os.path.join(self.place.name, "my server.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(script(ONE_AT_A_TIME))
        status, output = self.check_path(f"{sys.executable} '{path}'")
        self.assertEqual(status, 0, output)
        os.chmod(path, 0o755)
        status, output = self.check_path(path)
        self.assertEqual(status, 0, output)

    def test_other_lines_may_come_before_the_line(self):
        text = script(ONE_AT_A_TIME, on_start="print('Welcome to', 'my server', flush=True)")
        status, output = self.check(text, "0,1")
        self.assertEqual(status, 0, output)

    def test_helpers_in_a_session_of_their_own_are_ended(self):
        text = script(ONE_AT_A_TIME, on_start="os.fork() or (os.setsid(), time.sleep(1000))")
        status, output = self.check(text, "0,1")
        self.assertEqual(status, 0, output)
        self.assert_nobody_left()

    def test_what_could_not_be_tried_has_not_passed(self):
        text = script(ONE_AT_A_TIME, on_start="os.environ.pop('LD_PRELOAD', None) and "
                      "os.execv(sys.argv[0], sys.argv)")
        status, output = self.check(text, "0,11")
        self.assertEqual(status, 0, output)
        self.assertIn("3 passed, 0 failed, 1 not tried", output)
        self.assertIn("row 11 could not be tried", output)
        self.assertNotIn("Everything", output)

    def test_dual_stack_and_behind_a_wrapper_script(self):
        inner = os.path.join(self.place.name, "inner")
        with open(inner, "w", encoding="utf-8") as file:
            file.write(script(ONE_AT_A_TIME).replace(
                '("127.0.0.1", port)', '("::", port), family=socket.AF_INET6, dualstack_ipv6=True'
            ).replace("127.0.0.1:%d", "[::]:%d"))
        os.chmod(inner, 0o755)
        status, output = self.check(f"#!/bin/sh\n'{inner}' \"$@\"\n", "0,1,7")
        self.assertEqual(status, 0, output)


class ReadersOwnWays(ReadersServer):
    """What readers' servers do, in their languages, and what was once said of it that is not so."""

    def test_loses_a_little_output_at_the_end_of_input(self):
        text = script(MANY_AT_ONCE, reply="writer.write(data)")
        text = text.replace("writer.close()", "writer.transport.abort()")
        self.assert_caught(self.check(text, "6", stage=6), "without a word on stderr")

    def test_a_process_for_each_client_has_no_deadline(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
        text = text.replace("    total = 0\n", "    if os.fork():\n        client.close()\n"
                            "        continue\n    total = 0\n")
        status, output = self.check(text, "12,27,28", stage=3)
        self.assertEqual(status, 0, output)
        self.assertEqual(output.count("the connection stays open"), 2, output)
        self.assertEqual(output.count("SIGTERM ends it at once"), 3, output)

    def test_a_timer_is_no_deadline(self):
        text = script(THREAD_EACH).replace("port =", "threading.Thread(target=lambda: [time.sleep("
                                           "0.2) for _ in iter(int, 1)], daemon=True).start()\n"
                                           "port =")
        status, output = self.check(text, "27", stage=3)
        self.assertEqual(status, 0, output)
        self.assertRegex(output, r"after 1\d wake-ups")

    def test_ends_with_0_and_loses_what_it_owes(self):
        text = script(ONE_AT_A_TIME,
                      on_start="signal.signal(signal.SIGTERM, lambda *_: os._exit(0))")
        status, output = self.check(text, "28")
        self.assertEqual(status, 0, output)
        self.assertIn("SIGTERM ends it, with status 0", output)

    def test_a_client_that_goes_on_sending_moves_the_deadline(self):
        text = script(ONE_AT_A_TIME, before_accept="late and sys.exit(0)",
                      on_start="late = []; "
                               "signal.signal(signal.SIGTERM, lambda *_: late.append(1))",
                      reply="client.sendall(data); late and client.settimeout(60)")
        with mock.patch.dict(os.environ, TEST_FAILSAFE="2"):
            self.assert_caught(self.check(text, "28", 7), "whatever this client does")

    def test_throws_the_half_of_a_message_away_at_sigterm(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGTERM, "
                                              "lambda *_: sys.exit(0))")
        verdict = self.verdict(text, "stop_in_a_message", 7)
        self.assertEqual(verdict.outcome, "F", verdict.seen)
        self.assertIn("20 bytes came back right, then nothing more came", verdict.seen)

    def test_takes_a_slow_reader_for_a_silent_client(self):
        text = script(THREAD_EACH).replace("    with client:", "    client.settimeout(int(sys.argv["
                                           "sys.argv.index('--idle-ms') + 1]) / 1000)\n"
                                           "    with client:").replace("65536", "1 << 20")
        verdict = self.verdict(text, "slow_reader", 7)
        self.assertEqual(verdict.outcome, "F", verdict.seen)
        self.assertRegex(verdict.seen, r"the connection ended \(.*\) while it read: .* bytes came")

    def test_ignores_sigterm(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
        self.assert_caught(self.check(text, "28"), "it ignores SIGTERM")

    def test_keeps_memory_of_each_client(self):
        text = script(ONE_AT_A_TIME, on_start="kept = []",
                      reply="client.sendall(data); kept.append(bytearray(20_000))")
        self.assert_caught(self.check(text, "19"), "more memory after each 5,000 clients")

    def test_a_runtime_may_open_descriptors_late_and_inheritable_files(self):
        first = "os.set_inheritable(os.open('/dev/null', os.O_RDONLY), True)"
        text = script(ONE_AT_A_TIME, on_start="kept = []", reply="client.sendall(data); "
                      f"kept or kept.extend([socket.socket(), {first}])")
        status, output = self.check(text, "9,11,13,14,19")
        self.assertEqual(status, 0, output)

    def test_a_runtime_may_use_the_signal_of_the_storm(self):
        text = script(ONE_AT_A_TIME,
                      on_start="signal.signal(signal.SIGUSR1, lambda *_: None)")
        status, output = self.check(text, "10")
        self.assertEqual(status, 0, output)
        self.assertIn("a use of its own for SIGUSR1", output)

    def test_a_timer_thread_beside_one_client_at_a_time(self):
        timer = "__import__('threading').Thread(target=lambda: [time.sleep(0.05) for _ in " \
            "iter(int, 1)], daemon=True).start()"
        status, output = self.check(script(ONE_AT_A_TIME, on_start=timer), "1,12")
        self.assertEqual(status, 0, output)
        self.assertIn("When the first has left, the second is served", output)


if __name__ == "__main__":
    unittest.main()
