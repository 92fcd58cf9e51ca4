"""Tests of the shim itself: every injection is seen in the counters and in the behaviour.

Most of them run a few lines of Python under the shim, which print what they saw; that the victim is
not one of our servers shows that the shim works for any language that uses libc's names.
"""

import ast
import signal
import socket
import subprocess
import sys
import unittest

from tests import harness
from tests.outside.shim import CALLS, LEGAL, SPIN, Shim

PRELUDE = """
import errno, os, select, signal, socket, sys, threading

def attempt(call, *arguments):
    '''What the call returns, or the name of its error.'''
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]

def listen():
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, socket.create_connection(listener.getsockname())

def accepted(result):
    return result if isinstance(result, str) else "accepted"

a, b = socket.socketpair()
"""

DEAD = {"ECONNRESET", "ETIMEDOUT", "EPIPE", "EHOSTUNREACH", "ENETUNREACH"}

# Without the interpreter's own tidying up, which closes what is still open.
LEAVE = """
sys.stdout.flush()
os._exit(0)
"""

ECHO_SERVER = """
import select, socket
listener = socket.create_server(("127.0.0.1", 0))
print("python listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
clients = [listener]
while True:
    for s in select.select(clients, [], [])[0]:
        if s is listener:
            try:
                clients.append(s.accept()[0])
            except OSError:
                pass
            continue
        try:
            data = s.recv(65536)
            s.sendall(data)
        except OSError:
            data = b""
        if not data:
            clients.remove(s)
            s.close()
"""


class ShimTest(unittest.TestCase):
    """Helpers that run a victim under the shim."""

    def victim(self, rules, code):
        """Run the code; the one thing that it prints (as Python writes it), and the counters."""
        shim = Shim(rules)
        self.addCleanup(shim.close)
        run = subprocess.run(
            [sys.executable, "-S", "-c", PRELUDE + code + LEAVE],
            env=shim.env(), capture_output=True, encoding="utf-8")
        self.assertEqual(run.returncode, 0, run.stderr)
        return ast.literal_eval(run.stdout), shim

    def status(self, rules, code="", **variables):
        """Run the code, which may fail; its exit status and what it said."""
        with Shim(rules) as shim:
            run = subprocess.run(
                [sys.executable, "-S", "-c", PRELUDE + code],
                env={**shim.env(), **variables}, capture_output=True, encoding="utf-8")
        return run.returncode, run.stderr

    def start(self, rules, code):
        """Start the code in the background: its process and the counters."""
        shim = Shim(rules)
        self.addCleanup(shim.close)
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code], env=shim.env(), stdout=subprocess.PIPE,
            encoding="utf-8")
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process, shim


class Counting(ShimTest):
    """What the counters hold when nothing is altered."""

    def test_calls_and_bytes(self):
        seen, shim = self.victim("", "a.send(b'12345'); a.send(b'678'); print(b.recv(99))")
        self.assertEqual(seen, b"12345678")
        self.assertEqual((shim["send"].calls, shim["send"].done, shim["send"].amount), (2, 2, 8))
        self.assertEqual((shim["recv"].calls, shim["recv"].amount), (1, 8))
        self.assertEqual(shim.injected(), 0)

    def test_every_way_to_read_and_write(self):
        _, shim = self.victim("", """
for write in (a.send, lambda x: os.write(a.fileno(), x), lambda x: a.sendmsg([x[:1], x[1:]]),
              lambda x: os.writev(a.fileno(), [x[:1], x[1:]])):
    write(b'123')
for read in (b.recv, lambda n: os.read(b.fileno(), n), b.recvfrom, b.recvmsg,
             lambda n: os.readv(b.fileno(), [bytearray(1), bytearray(n - 1)])):
    read(2)
print(None)""")
        self.assertEqual((shim["send"].calls, shim["send"].amount), (4, 12))
        self.assertEqual((shim["recv"].calls, shim["recv"].amount), (5, 10))

    def test_accept_and_close(self):
        _, shim = self.victim("", """
for s in (a, b): s.close()
listener, client = listen()
server = listener.accept()[0]
for s in (server, client, listener): s.close()
print(None)""")
        self.assertEqual((shim["accept"].calls, shim["accept"].amount), (1, 1))
        self.assertEqual(shim["close"].calls, 5)

    def test_waits(self):
        _, shim = self.victim("", """
a.send(b'1')
e = select.epoll(); e.register(b); e.poll()
p = select.poll(); p.register(b); p.poll()
select.select([a, b], [a], [])
print(None)""")
        self.assertEqual((shim["epoll_wait"].calls, shim["epoll_wait"].amount), (1, 1))
        self.assertEqual((shim["poll"].calls, shim["poll"].amount), (1, 1))
        self.assertEqual((shim["select"].calls, shim["select"].amount), (1, 2))
        self.assertEqual((shim["wait"].calls, shim["wait"].amount), (3, 4))
        self.assertEqual(shim["epoll_ctl"].calls, 1)

    def test_other_files_are_left_alone(self):
        seen, shim = self.victim("send:*:short=1 recv:*:short=1 close:*:EIO", """
r, w = os.pipe()
print([os.write(w, b'12345'), os.read(r, 99), attempt(os.close, r)])""")
        self.assertEqual(seen, [5, b"12345", None])
        self.assertEqual(shim.injected(), 0)

    def test_datagrams_are_left_alone(self):
        seen, shim = self.victim("send:*:short=1 recv:*:short=1", """
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
print([a.send(b'12345'), b.recv(99)])""")
        self.assertEqual(seen, [5, b"12345"])
        self.assertEqual(shim["recv"].calls, 0)

    def test_peeking_is_not_counted(self):
        seen, shim = self.victim("recv:*:short=1", """
a.send(b'123')
print(b.recv(3, socket.MSG_PEEK))""")
        self.assertEqual((seen, shim["recv"].calls), (b"123", 0))

    def test_threads_lose_no_count(self):
        _, shim = self.victim("send:%2:EINTR", """
def work():
    mine, other = socket.socketpair()
    for i in range(1000):
        mine.send(b'1')
        other.recv(1)
threads = [threading.Thread(target=work) for i in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print(None)""")
        self.assertEqual(shim["send"].amount, 4000)
        self.assertEqual(shim["recv"].amount, 4000)
        self.assertEqual(shim["send"].calls, 4000 + shim["send"].interrupted)
        self.assertEqual(shim["send"].interrupted, shim["send"].calls // 2)

    def test_children_count_too(self):
        _, shim = self.victim("", """
if os.fork() == 0:
    a.send(b'1')
    os._exit(0)
os.wait()
a.send(b'2')
print(None)""")
        self.assertEqual(shim["send"].amount, 2)

    def test_a_number_closed_twice_is_seen(self):
        seen, shim = self.victim("", """
fd = a.detach()
print([attempt(os.close, fd), attempt(os.close, fd)])""")
        self.assertEqual(seen, [None, "EBADF"])
        self.assertEqual((shim["close"].calls, shim["close"].failed), (2, 1))

    def test_counters_are_read_while_the_server_sleeps(self):
        process, shim = self.start("", PRELUDE + "a.recv(1)")
        shim.wait(lambda: shim["recv"].inside == 1)
        self.assertEqual(shim.pid, process.pid)
        self.assertIsNone(process.poll())

    def test_no_counters_wanted(self):
        with Shim("send:1:short=1") as shim:
            env = shim.env()
            del env["SHIM_COUNTERS"]
            code = PRELUDE + "print(a.send(b'123'))"
            out = subprocess.check_output([sys.executable, "-S", "-c", code], env=env)
            self.assertEqual((int(out), shim.pid), (1, 0))


class Rules(ShimTest):
    """Which calls a rule is about, and what is refused."""

    SEND_TEN = "print([attempt(a.send, b'12', socket.MSG_DONTWAIT) for i in range(10)])"

    def which(self, rules):
        """The numbers of the sends, 1 to 10, that were altered."""
        seen, shim = self.victim(rules, self.SEND_TEN)
        altered = [k for k, result in enumerate(seen, 1) if result != 2]
        self.assertEqual(shim["send"].injected, len(altered))
        return altered

    def test_which_call(self):
        self.assertEqual(self.which("send:3:ENOBUFS"), [3])
        self.assertEqual(self.which("send:3-5:ENOBUFS"), [3, 4, 5])
        self.assertEqual(self.which("send:8-:ENOBUFS"), [8, 9, 10])
        self.assertEqual(self.which("send:%4:ENOBUFS"), [4, 8])
        self.assertEqual(self.which("send:*:ENOBUFS"), list(range(1, 11)))
        self.assertEqual(self.which("recv:*:EINTR"), [])
        self.assertEqual(self.which(""), [])

    def test_the_first_word_that_fits_decides(self):
        seen, _ = self.victim("send:2:ENOMEM  send:1-3:short=1 send:*:EPIPE", self.SEND_TEN)
        self.assertEqual(seen, [1, "ENOMEM", 1] + 7 * ["EPIPE"])

    def test_bad_words_end_the_process(self):
        for word, reason in {
            "receive:1:EINTR": "no such call",
            "recv:0:EINTR": "not a number",
            "recv:x:EINTR": "not a number",
            "recv:1-x:EINTR": "not a number",
            "recv:99999999999999999999:EINTR": "not a number",
            "recv:1": "neither",
            "recv:1:EWHATEVER": "neither",
            "recv:1:short=0": "not a number",
            "accept:1:short=1": "only recv and send",
        }.items():
            with self.subTest(word=word):
                status, said = self.status(f"send:1:EINTR {word}")
                self.assertEqual(status, 125)
                self.assertIn(f"shim: {word}: {reason}", said)

    def test_an_error_that_the_call_cannot_have_is_refused(self):
        names = {name for errors in LEGAL.values() for name in errors.split()}
        for call in CALLS:
            word = " ".join(f"{call}:1:{name}" for name in LEGAL[call].split())
            self.assertEqual(self.status(word)[0], 0, word)
        for call in CALLS:
            name = sorted(names - set(LEGAL[call].split()))[0]
            self.assertEqual(self.status(f"{call}:1:{name}")[0], 125, f"{call}:1:{name}")

    def test_a_file_that_cannot_be_opened_ends_the_process(self):
        status, said = self.status("", SHIM_COUNTERS="/nowhere/at/all")
        self.assertEqual(status, 125)
        self.assertIn("/nowhere/at/all: No such file", said)


class Altering(ShimTest):
    """What the victim sees, and that nothing is lost."""

    def test_short_reads(self):
        for read in ("b.recv(9)", "os.read(b.fileno(), 9)", "b.recvfrom(9)[0]",
                     "b.recvmsg(9)[0]"):
            with self.subTest(read=read):
                seen, shim = self.victim("recv:1:short=2", f"""
a.send(b'12345')
print([{read}, {read}])""")
                self.assertEqual(seen, [b"12", b"345"])
                self.assertEqual(shim["recv"].injected, 1)

    def test_short_reads_into_several_buffers(self):
        seen, _ = self.victim("recv:1-2:short=2", """
a.send(b'12345')
one, two = bytearray(1), bytearray(4)
print([os.readv(b.fileno(), [one, two]), b.recvmsg_into([bytearray(0), two])[0],
       bytes(one), bytes(two), b.recv(9)])""")
        self.assertEqual(seen, [1, 2, b"1", b"23\0\0", b"45"])

    def test_short_writes(self):
        for write in ("a.send(b'12345')", "os.write(a.fileno(), b'12345')",
                      "a.sendmsg([b'', b'12345'])",
                      "os.writev(a.fileno(), [b'1234', b'5'])"):
            with self.subTest(write=write):
                seen, shim = self.victim("send:1:short=2", f"print([{write}, b.recv(9)])")
                self.assertEqual(seen, [2, b"12"])
                self.assertEqual(shim["send"].injected, 1)

    def test_a_call_that_is_short_already_is_not_counted_as_altered(self):
        _, shim = self.victim("send:*:short=5", "print(a.send(b'12345'))")
        self.assertEqual(shim["send"].injected, 0)

    def test_a_failed_accept_leaves_the_connection_in_the_queue(self):
        for name in LEGAL["accept"].split():
            if name in ("EINTR", "EAGAIN"):
                continue  # Python tries again after EINTR, and EAGAIN has its own test
            with self.subTest(error=name):
                seen, shim = self.victim(f"accept:1:{name}", """
listener, client = listen()
print([accepted(attempt(listener.accept)), accepted(attempt(listener.accept))])""")
                self.assertEqual(seen, [name, "accepted"])
                self.assertEqual((shim["accept"].failed, shim["accept"].amount), (1, 1))

    def test_a_failed_read_or_write_loses_no_bytes(self):
        for name in sorted(set(LEGAL["recv"].split()) - DEAD):
            with self.subTest(call="recv", error=name):
                seen, shim = self.victim(f"recv:1:{name}", """
a.send(b'12345')
b.setblocking(False)
print([attempt(b.recv, 9), attempt(b.recv, 9)])""")
                expected = [b"12345", "EAGAIN"] if name == "EINTR" else [name, b"12345"]
                self.assertEqual((seen, shim["recv"].injected), (expected, 1))
        for name in sorted(set(LEGAL["send"].split()) - DEAD):
            with self.subTest(call="send", error=name):
                seen, shim = self.victim(f"send:1:{name}", """
a.setblocking(False)
b.setblocking(False)
print([attempt(a.send, b'12345'), attempt(b.recv, 9), attempt(a.send, b'678')])""")
                expected = [5, b"12345", 3] if name == "EINTR" else [name, "EAGAIN", 3]
                self.assertEqual((seen, shim["send"].injected), (expected, 1))

    def test_an_error_that_means_the_end_is_the_end(self):
        for name in sorted(DEAD - {"EPIPE"}):
            with self.subTest(call="recv", error=name):
                seen, _ = self.victim(f"recv:1:{name}", """
a.send(b'123')
print([attempt(b.recv, 9), b.recv(9), b.recv(9), attempt(b.send, b'1')])""")
                self.assertEqual(seen, [name, b"", b"", "EPIPE"])  # bytes never follow an error
        for name in sorted(DEAD):
            with self.subTest(call="send", error=name):
                seen, _ = self.victim(f"send:2:{name}", """
b.send(b'456')
print([attempt(a.send, b'123'), attempt(a.send, b'123'), a.recv(9), a.recv(9), b.recv(9)])""")
                self.assertEqual(seen, [name, "EPIPE", b"456", b"", b""])  # it had come before

    def test_interrupted_calls_are_counted(self):
        _, shim = self.victim("accept:1:EINTR recv:1:EINTR send:1:EINTR wait:1:EINTR", """
listener, client = listen()
server = listener.accept()[0]
a.send(b'1')
select.select([b], [], [])
e = select.epoll(); e.register(b); e.poll()
p = select.poll(); p.register(b); p.poll()
b.recv(1)
print(None)""")
        for call in ("accept", "recv", "send", "select", "epoll_wait", "poll"):
            with self.subTest(call=call):
                self.assertEqual((shim[call].calls, shim[call].interrupted), (2, 1))

    def test_failed_waits(self):
        seen, _ = self.victim("poll:1:ENOMEM select:1:ENOMEM", """
a.send(b'1')
p = select.poll(); p.register(b, select.POLLIN)
print([attempt(p.poll), p.poll() == [(b.fileno(), 1)],
       attempt(select.select, [b], [], []), select.select([b], [], [])[0] == [b]])""")
        self.assertEqual(seen, ["ENOMEM", True, "ENOMEM", True])

    def test_a_failed_epoll_ctl_registers_nothing(self):
        seen, shim = self.victim("epoll_ctl:1:ENOSPC", """
a.send(b'1')
e = select.epoll()
print([attempt(e.register, b, 1), e.poll(0), attempt(e.register, b, 1), len(e.poll(0))])""")
        self.assertEqual(seen, ["ENOSPC", [], None, 1])
        self.assertEqual(shim["epoll_ctl"].failed, 1)

    def test_only_new_registrations_run_out_of_space(self):
        seen, shim = self.victim("epoll_ctl:2-:ENOSPC", """
e = select.epoll()
print([attempt(e.register, b, 1), attempt(e.modify, b, 4), attempt(e.unregister, b)])""")
        self.assertEqual(seen, [None, None, None])
        self.assertEqual((shim["epoll_ctl"].refused, shim["epoll_ctl"].injected), (2, 0))

    def test_the_first_call_that_may_fail_so_does(self):
        seen, shim = self.victim("epoll_ctl:2+:ENOSPC", """
e = select.epoll()
print([attempt(e.register, a, select.EPOLLIN), attempt(e.modify, a, select.EPOLLOUT),
       attempt(e.register, b, select.EPOLLIN), attempt(e.register, b, select.EPOLLIN)])""")
        self.assertEqual(seen, [None, None, "ENOSPC", None])
        self.assertEqual((shim["epoll_ctl"].refused, shim["epoll_ctl"].injected), (1, 1))

    def test_accepted_sockets_get_a_small_buffer(self):
        code = """
listener, client = listen()
server = listener.accept()[0]
print([s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for s in (server, client)])"""
        (small, other), _ = self.victim("sndbuf=8192", code)
        self.assertEqual(small, 2 * 8192)  # the kernel doubles it: socket(7)
        self.assertEqual([other, other], self.victim("", code)[0])

    def test_a_failed_close_has_closed(self):
        for name in ("EINTR", "EIO"):
            with self.subTest(error=name):
                seen, shim = self.victim(f"close:1:{name}", """
fd = a.detach()
print([attempt(os.close, fd), attempt(os.fstat, fd), b.recv(1)])""")
                # os.close() does not try again after EINTR either, and says nothing about it.
                self.assertEqual(seen[1:], ["EBADF", b""])
                self.assertEqual((shim["close"].calls, shim["close"].injected), (1, 1))

    def test_a_broken_pipe_raises_its_signal(self):
        ask = "signal.signal(signal.SIGPIPE, signal.SIG_DFL); attempt(a.send, b'1', %s)"
        self.assertEqual(self.status("send:1:EPIPE", ask % "0")[0], -signal.SIGPIPE)
        self.assertEqual(self.status("send:1:EPIPE", ask % "socket.MSG_NOSIGNAL")[0], 0)


class Again(ShimTest):
    """EAGAIN is only said to those who will hear of it again."""

    def again(self, rules, code):
        """The result of the victim's `try_it`, and whether EAGAIN was injected into it."""
        seen, shim = self.victim(rules, code)
        counts = [shim[call] for call in ("accept", "recv", "send")]
        self.assertEqual(sum(c.injected + c.refused for c in counts), 1)
        injected = sum(c.injected for c in counts) == 1
        self.assertEqual(seen == "EAGAIN", injected)
        return injected

    def recv_when(self, *steps):
        """Is EAGAIN injected into a recv() after these steps?"""
        code = "\n".join(["a.send(b'1')", "e = select.epoll()", "ET = select.EPOLLET", *steps])
        return self.again("recv:1:EAGAIN", code + "\nprint(repr(attempt(b.recv, 1)))")

    def send_when(self, *steps):
        """Is EAGAIN injected into a send() after these steps?"""
        code = "\n".join(["e = select.epoll()", "ET = select.EPOLLET", *steps])
        return self.again("send:1:EAGAIN", code + "\nprint(repr(attempt(a.send, b'1')))")

    def test_a_blocking_call_never_says_so(self):
        self.assertFalse(self.recv_when())
        self.assertFalse(self.send_when())
        self.assertFalse(self.again("accept:1:EAGAIN", """
listener, client = listen()
print(repr(accepted(attempt(listener.accept))))"""))

    def test_a_non_blocking_one_may(self):
        self.assertTrue(self.recv_when("b.setblocking(False)"))
        self.assertTrue(self.send_when("a.setblocking(False)"))
        self.assertTrue(self.again("recv:1:EAGAIN", """
a.send(b'1')
print(repr(attempt(b.recv, 1, socket.MSG_DONTWAIT)))"""))
        self.assertTrue(self.again("accept:1:EAGAIN", """
listener, client = listen()
listener.setblocking(False)
print(repr(accepted(attempt(listener.accept))))"""))

    def test_level_triggered_is_told_again(self):
        self.assertTrue(self.recv_when("b.setblocking(False)", "e.register(b, 1 | 4)"))

    def test_an_edge_would_be_lost(self):
        self.assertFalse(self.recv_when("b.setblocking(False)", "e.register(b, 1 | ET)"))
        self.assertFalse(self.send_when("a.setblocking(False)", "e.register(a, 5 | ET)"))
        self.assertFalse(self.again("accept:1:EAGAIN", """
listener, client = listen()
listener.setblocking(False)
e = select.epoll()
e.register(listener, 1 | select.EPOLLET)
print(repr(accepted(attempt(listener.accept))))"""))

    def test_fewer_bytes_only_where_they_are_no_sign(self):
        code = """
a.setblocking(False), b.setblocking(False)
e = select.epoll()
b.send(b'12345')
seen = [a.recv(9)]
e.register(a, select.EPOLLIN | select.EPOLLET)
b.send(b'12345')
print(seen + [a.recv(9)])"""
        for word in "part", "short":
            seen, _ = self.victim(f"recv:*:{word}=4", code)
            self.assertEqual(seen[0], b"1234")
            self.assertEqual(seen[1], b"5" + b"12345" if word == "part" else b"5123")

    def test_what_is_not_watched_yet_can_still_be(self):
        self.assertTrue(self.send_when("a.setblocking(False)", "e.register(a, 1 | ET)"))
        self.assertTrue(
            self.send_when("a.setblocking(False)", "e.register(a, 5 | ET)", "e.modify(a, 1 | ET)"))

    def test_a_closed_number_is_forgotten(self):
        self.assertTrue(self.send_when(
            "e.register(a, 5 | ET)", "number = a.fileno()", "a.close()",
            "a, other = socket.socketpair()", "assert a.fileno() == number",
            "a.setblocking(False)"))


class Progress(ShimTest):
    """A spin is a long row of calls without progress."""

    def test_asking_in_vain_is_a_spin(self):
        _, shim = self.victim("", f"""
a.setblocking(False)
for i in range({SPIN}): attempt(a.recv, 1)
print(None)""")
        self.assertGreaterEqual(shim.most_fruitless, SPIN)

    def test_reading_the_end_again_and_again_is_a_spin(self):
        _, shim = self.victim("", f"""
b.close()
for i in range({SPIN}): a.recv(1)
print(None)""")
        self.assertGreaterEqual(shim.most_fruitless, SPIN)

    def test_a_full_table_is_a_spin(self):
        _, shim = self.victim("accept:*:EMFILE", f"""
listener, client = listen()
for i in range({SPIN}):
    select.select([listener], [], [])
    attempt(listener.accept)
print(None)""")
        self.assertGreaterEqual(shim.most_fruitless, 2 * SPIN)

    def test_work_is_none(self):
        _, shim = self.victim("", f"""
for i in range({SPIN}):
    a.send(b'1')
    select.select([b], [], [])
    b.recv(1)
    attempt(b.recv, 1, socket.MSG_DONTWAIT)
print(None)""")
        self.assertLess(shim.most_fruitless, 10)

    def test_waiting_in_vain_is_none_but_asking_without_waiting_is(self):
        _, shim = self.victim("", """
for i in range(50): select.select([a], [], [], 0.001)
print(None)""")
        self.assertLessEqual(shim.most_fruitless, 1)
        _, shim = self.victim("", """
for i in range(50): select.select([a], [], [], 0)
print(None)""")
        self.assertEqual(shim.most_fruitless, 50)

    def test_an_eventfd_that_is_emptied_is_none(self):
        _, shim = self.victim("", """
r, w = os.pipe()
for i in range(50):
    os.write(w, b'1')
    select.select([r], [], [])
    os.read(r, 1)
print(None)""")
        self.assertLessEqual(shim.most_fruitless, 1)


class Signals(ShimTest):
    """SIGUSR1 interrupts what the server sleeps in, and does not end it."""

    def test_a_sleeping_call_is_interrupted(self):
        process, shim = self.start("SIGUSR1", PRELUDE + "b.recv(1)")
        for sent in range(1, 21):
            shim.wait(lambda: shim["recv"].inside == 1)
            process.send_signal(signal.SIGUSR1)
            shim.wait(lambda: shim.signals == sent)
        shim.wait(lambda: shim["recv"].inside == 1)
        # A signal that comes between two calls interrupts neither, so not each of them must.
        self.assertGreater(shim["recv"].interrupted, 0)
        self.assertLess(shim.most_fruitless, 10)
        self.assertIsNone(process.poll())

    def test_without_the_word_the_signal_ends_it(self):
        self.assertEqual(
            self.status("", "os.kill(os.getpid(), signal.SIGUSR1)")[0], -signal.SIGUSR1)


class Server(ShimTest):
    """A whole server in Python, which knows nothing of the shim."""

    RULES = "recv:*:short=1 send:%3:EINTR send:*:short=1 accept:1:ECONNABORTED select:%5:EINTR"

    def test_echo_under_short_calls(self):
        process, shim = self.start(self.RULES, ECHO_SERVER)
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        message = harness.frame(bytes(range(256)))
        clients = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(3)]
        for client in clients:
            client.sendall(message)
        for client in clients:
            with client, client.makefile("rb") as stream:
                self.assertEqual(stream.read(len(message)), message)
        shim.wait(lambda: shim["close"].calls == 3)
        self.assertEqual(shim["recv"].amount, 3 * len(message))
        self.assertEqual(shim["recv"].calls, 3 * len(message) + 3)
        self.assertEqual(shim["send"].amount, 3 * len(message))
        self.assertEqual((shim["accept"].failed, shim["accept"].amount), (1, 3))
        self.assertGreater(shim["select"].interrupted, 0)


if __name__ == "__main__":
    unittest.main()
