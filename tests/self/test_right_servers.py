"""Servers that are right in unusual ways, as those of many runtimes are: check.py blames none.

Each is a small program in Python that does as some runtime does, and was once called wrong.
"""

import itertools
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from tests import harness
from tests import probes
from tests.harness import cell
from tests.learn import check
from tests.loop import soak
from tests.outside import kernel, runtime
from tests.probes import leaving, sharing, slow
from tests.self.test_wrong_servers import (MANY_AT_ONCE, ONE_AT_A_TIME, THREAD_EACH, ReadersServer,
                                           script)

# Edge-triggered for both, from the beginning, and a short count is the sign that there is no more:
# epoll(7), Q9. So do mio and Asio.
EDGES = """\
    #!{python}
    import select, socket, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    epoll, clients = select.epoll(), {{}}
    epoll.register(listener, {for_listener})
    class Client:
        def __init__(self, sock):
            self.sock, self.out, self.more, self.ending, self.eof = sock, bytearray(), 0, 0, 0
        def turn(self, events):
            self.more |= events & ~select.EPOLLOUT
            self.ending |= events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
            while True:
                if self.out:
                    del self.out[:self.sock.send(self.out)]
                if self.out or not self.more or self.eof:
                    return
                data = self.sock.recv(65536)
                self.eof, self.more = not data, len(data) == 65536 or self.ending
                self.out += data
    while True:
        for fd, events in epoll.poll():
            try:
                while fd == listener.fileno():
                    sock, _ = listener.accept()
                    sock.setblocking(False)
                    clients[sock.fileno()] = Client(sock)
                    try:
                        epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
                                       | select.EPOLLRDHUP)
                    except OSError:
                        clients.pop(sock.fileno()).sock.close()
                clients[fd].turn(events)
                gone = clients[fd].eof and not clients[fd].out
            except BlockingIOError:
                gone = False
            except OSError:
                gone = fd in clients
            if gone:
                clients.pop(fd).sock.close()
    """

# Two children accept in turn from the listener that their parent has opened.
PREFORK = """\
    #!{python}
    import os, selectors, socket, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    if os.fork() and os.fork():
        os.wait()
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            try:
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    client.setblocking(True)
                    ready.register(client, selectors.EVENT_READ)
                elif data := key.fileobj.recv(65536):
                    key.fileobj.sendall(data)
                else:
                    raise OSError
            except OSError:
                if key.fileobj is not listener:
                    ready.unregister(key.fileobj)
                    key.fileobj.close()
    """


# As a beginner writes it: right for each client that stays polite, and nothing is caught.
BEGINNERS = """\
    #!{python}
    import socket, sys
    port = int(sys.argv[sys.argv.index("--port") + 1])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(4096)
    print("mine listening on 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    while True:
        client, address = listener.accept()
        while data := client.recv(4096):
            client.sendall(data)
        client.close()
    """


class RightServer(ReadersServer):
    """What is asked of the classes below."""

    def assert_right(self, text, rows, stage, *messages):
        """Accepted, and each of these was said."""
        status, output = self.check(text, rows, stage)
        self.assertEqual(status, 0, output)
        for message in messages:
            self.assertIn(message, output)
        return output


class WhatIsTheRuntimes(RightServer):
    """Each of these was blamed for what is no fault, or for what its author cannot change."""

    def test_it_may_log_to_stdout(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data); print('a client has said', data)")
        self.assert_right(text, "19", 1)

    def test_an_epoll_that_a_child_inherits_is_only_told_of(self):
        text = script(EDGES, for_listener="select.EPOLLIN").replace(
            "import select", "import os, select").replace(
            "epoll.register(listener",
            "os.set_inheritable(epoll.fileno(), True); epoll.register(listener")
        self.assert_right(text, "19", 1, "(anon_inode:[eventpoll]) stays open in a child")

    def test_a_short_count_may_be_a_sign_where_it_is_edge_triggered(self):
        text = script(EDGES, for_listener="select.EPOLLIN | select.EPOLLET")
        self.assert_right(text, "0,5,14", 3)

    def test_another_stages_lesson_is_no_worse(self):
        text = script(EDGES, for_listener="select.EPOLLIN")
        self.assert_right(text, "12", 6, "no worse than what chapter 4 shows",
                          "is stage 6, 06-write-buffering")

    def test_children_may_accept(self):
        output = self.assert_right(script(PREFORK), "0,1,9,12,15,19", 3)
        self.assertNotIn("not tried", output.replace("-: not tried", ""))

    def test_a_child_may_serve_and_have_no_core_yet(self):
        server = mock.Mock(pids=[], spin_ms=1, cpu_ms=lambda: 0, exited=lambda: False,
                           calls=lambda: ["epoll_wait", "futex"],
                           others_asleep=mock.Mock(side_effect=[False, False, True]))
        other = mock.Mock(readable=lambda: False, unread=lambda: 5, server_fd=lambda: None)
        self.assertTrue(slow.frozen(server, mock.Mock(push=lambda: 0), other))
        self.assertEqual(server.others_asleep.call_count, 3)

    def test_a_child_without_a_core_is_waited_for(self):
        """It is of the server, also where it was started while we waited: all of it must rest."""
        server = mock.Mock(pids=[], spin_ms=1, cpu_ms=lambda: 0, exited=lambda: False,
                           processes=mock.Mock(side_effect=[[1], [1], [1, 2], [1, 2], [1]]))
        ours, theirs = socket.socketpair()
        with ours, theirs, mock.patch.object(harness.Stillness, "lasts",
                                             lambda still, _: 2 in still.pids):
            client = mock.Mock(sock=ours, server=server, _why_stuck=lambda *_: ("", ""),
                               unread=lambda: 5)
            with self.assertRaisesRegex(harness.Fail, "nothing more comes"):
                harness.Client.wait(client)
        self.assertEqual(server.processes.call_count, 3)

    def test_what_comes_while_we_look_has_come(self):
        ours, theirs = socket.socketpair()
        server = mock.Mock(pids=[], spin_ms=1, cpu_ms=lambda: 0, exited=lambda: False,
                           processes=lambda: [1])
        with ours, theirs, mock.patch.object(harness.Stillness, "lasts",
                                             lambda *_: theirs.send(b"late")):
            harness.Client.wait(mock.Mock(sock=ours, server=server, unread=lambda: 0,
                                          _why_stuck=lambda *_: ("", "")))

    def test_a_child_may_need_time_to_begin(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
        text = text.replace("    total = 0\n", "    if os.fork():\n        client.close()\n"
                            "        continue\n    for _ in range(80):\n"
                            "        time.sleep(0.05)\n    total = 0\n", 1)
        self.assert_right(text, "1", 3)

    def test_one_at_a_time_may_wait_in_poll(self):
        """As the threads of an interpreter do, which has only one of its own: Chicken Scheme's."""
        waits = "\n".join(["import select", "def wait(sock, event):", "    ready = select.poll()",
                           "    ready.register(sock, event)", "    ready.poll()",
                           "def receive(sock):", "    sock.setblocking(False)",
                           "    wait(sock, select.POLLIN)", "    return sock.recv(65536)",
                           "def transmit(sock, data):", "    while data:",
                           "        wait(sock, select.POLLOUT)",
                           "        data = data[sock.send(data):]"])
        text = script(ONE_AT_A_TIME, on_start="HERE", reply="transmit(client, data)",
                      before_accept="wait(listener, select.POLLIN)")
        text = text.replace("HERE", waits).replace("client.recv(65536)", "receive(client)")
        self.assert_right(text, "0,1,7,12", 1)

    def test_signals_may_wake_it_all_the_time(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGALRM, lambda *_: None); "
                      "signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)")
        self.assertIn("the second is served", self.assert_right(text, "1", 1))

    def test_another_process_may_say_the_line(self):
        text = script(ONE_AT_A_TIME, before_line="if os.fork() == 0:\n"
                      "    for _ in range(60): time.sleep(0.05)\n"
                      "    print('mine listening on 127.0.0.1:%d' % listener.getsockname()[1], "
                      "flush=True)\n    os._exit(0)")
        text = text.replace("print(\"mine", "str(\"mine", 1).replace(
            "getsockname()[1], flush=True)\nwhile", "getsockname()[1])\nwhile")
        text = text.replace("HOST", "")
        self.assert_right(text, "0", 1)

    def test_what_a_child_does_is_told(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
                      reply="os.read(os.pipe()[0], 1)")
        text = text.replace("    total = 0\n", "    if os.fork():\n        client.close()\n"
                            "        continue\n    total = 0\n", 1)
        self.assert_caught(self.check(text, "0", 3), "accept4() on descriptor 3; its process mine "
                                                     "sleeps in read() on descriptor 5")

    def test_a_child_may_be_a_program_that_does_not_start_without_descriptors(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
                      reply="client.sendall(data)")
        text = text.replace("    total = 0\n", "    if os.fork():\n        client.close()\n"
                            "        continue\n    try:\n        open('/dev/null').close()\n"
                            "    except OSError:\n        os._exit(1)\n    total = 0\n", 1)
        self.assert_right(text, "12", 3)

    def test_who_is_slow_and_gets_on_is_not_wrong(self):
        server = mock.Mock(describe=lambda: "the server is running (state R)")
        with self.assertRaisesRegex(harness.NotTried, r"too slow .* is running \(state R\)$"):
            cell.no_verdict(mock.Mock(own=False, servers=[server]), None)
        with self.assertRaisesRegex(harness.Fail, "no verdict within"):
            cell.no_verdict(mock.Mock(own=True, servers=[server]), None)

    def test_who_is_slow_gets_fewer_clients(self):
        text = script(ONE_AT_A_TIME, before_accept="time.sleep(0.01)")
        output = self.assert_right(text, "19", 1)
        self.assertRegex(output, r"note: \d+ clients at a time, and not 5,000")

    def test_pipes_may_be_kept_for_later(self):
        text = script(THREAD_EACH, reply="pipes = pool.pop() if pool else os.pipe(); "
                      "client.sendall(data); pool.append(pipes)")
        text = text.replace("import socket, sys", "import os, socket, sys").replace(
            "def serve(client):", "pool = []\ndef serve(client):", 1)
        self.assert_right(text, "9,19", 3)

    def test_a_log_file_may_be_opened(self):
        text = script(ONE_AT_A_TIME, on_start="files = []", reply="client.sendall(data); "
                      "len(files) < 50 and files.append(open('/dev/null'))")
        self.assert_right(text, "9,13", 1)

    def test_other_threads_may_wake_up(self):
        text = script(MANY_AT_ONCE, reply="writer.write(data)", on_start="import threading, time; "
                      "threading.Thread(target=lambda: [time.sleep(0.001) for _ in iter(int, 1)], "
                      "daemon=True).start()")
        self.assert_right(text, "15", 6)

    @unittest.skipUnless(socket.has_ipv6, "no IPv6")
    def test_ipv6_alone(self):
        try:
            with socket.create_server(("::1", 0), family=socket.AF_INET6):
                pass
        except OSError as error:
            self.skipTest(f"::1: {error.strerror}")
        text = script(ONE_AT_A_TIME).replace(
            '("127.0.0.1", port)', '("::", port), family=socket.AF_INET6'
        ).replace("127.0.0.1:%d", "[::]:%d")
        self.assert_right(text, "0,1,9,11", 1)

    def test_the_event_loop_is_not_its_users(self):
        text = script(MANY_AT_ONCE, reply="writer.write(data)")
        self.assert_right(text, "13", 6, "not counted, because it is your runtime's",
                          "(while epoll_ctl() said ENOSPC). It is asyncio that watches the clients",
                          "fs.epoll.max_user_watches")

    def test_the_first_epoll_ctl_may_be_one_that_cannot_fail_so(self):
        text = script(EDGES, for_listener="select.EPOLLIN").replace(
            "epoll.register(sock,", "epoll.modify(listener, select.EPOLLIN), epoll.register(sock,")
        output = self.assert_right(text, "13", 6)
        self.assertNotIn("could not be tried", output)

    def test_without_epoll_there_is_nothing_to_try(self):
        self.assert_right(script(THREAD_EACH), "13", 4, "it does not use epoll")


class WhatIsNotAsked(RightServer):
    """What the README does not ask of a reader's server is shown, and not counted."""

    def test_who_says_nothing_about_accept_may_sleep_and_try_again(self):
        text = script(ONE_AT_A_TIME).replace(
            'print("accept:", error.strerror, file=sys.stderr, flush=True)', "pass")
        output = self.assert_right(text, "12,33", 1, "33 P")
        self.assertNotIn("33 L", output)

    def test_what_no_client_brings_about(self):
        text = script(BEGINNERS)
        output = self.assert_right(
            text, "0,33,35", 1, "33 L", "not counted, because no client brings it about: the "
            "server exited with status 1", "descriptor 0 is a socket",
            "sleeps in write() on descriptor 2", "Rows 33 and 35 do not count.")
        self.assertNotIn("the probe itself", output)
        self.assertNotIn("Everything", output)

    def test_a_runtime_may_end_in_its_own_way_without_stdout(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGPIPE, signal.SIG_DFL)")
        text = text.replace("print(\"mine", "os.write(1, b\"mine").replace(
            "127.0.0.1:%d\" %", "127.0.0.1:%d\\n\" %").replace("[1], flush=True)", "[1])")
        self.assert_right(text, "35", 1, "35 P the line on stdout cannot be written")

    def test_in_stage_7_it_counts(self):
        self.assert_caught(self.check(script(MANY_AT_ONCE, reply="writer.write(data)"), "35",
                                      stage=7), "is a socket look at")

    def test_who_waits_in_accept_has_no_wait_that_fails(self):
        self.assert_right(script(THREAD_EACH), "34", 3, "it waits in other calls than select()")

    def test_small_reads_and_writes_of_its_own(self):
        for size in "4096", "500":
            output = self.assert_right(script(BEGINNERS).replace("4096)\n        c", f"{size})\n"
                                                                 "        c"), "14", 1)
            self.assertNotIn("could not be tried", output)

    def test_who_ends_at_the_signal_of_the_storm(self):
        self.assert_right(script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGUSR1, lambda *_:"
                                 " os._exit(1))"), "10", 1, "a use of its own for SIGUSR1")

    def test_who_waits_at_its_end_for_one_that_does_not_read(self):
        text = script(ONE_AT_A_TIME, on_start="import fcntl, termios; stop, busy = [], []; "
                      "signal.signal(signal.SIGTERM, "
                      "lambda *_: stop.append(1) if busy else os._exit(0))",
                      reply="busy.append(1); client.sendall(data); "
                            "stop and (unread(), os._exit(0))")
        text = text.replace("while True:\n", "unread = lambda: [time.sleep(0.01) for _ in iter("
                            "lambda: fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), bytes(4))]\n"
                            "while True:\n", 1)
        self.assert_right(text, "28", 1, "SIGTERM does not end it")

    def test_a_process_for_each_client_is_not_multiplied_by_thousands(self):
        text = script(ONE_AT_A_TIME, on_start="signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
        text = text.replace("    total = 0\n", "    if os.fork():\n        client.close()\n"
                            "        continue\n    total = 0\n")
        _, output = self.check(text, "4,31", 4)
        self.assertEqual(output.count("it has a process for each client"), 2, output)
        self.assertIn("Nothing of stage 4 could be tried.", output)
        self.assert_right(text, "16", 4, "who listens does not serve the clients itself")

    def test_an_urgent_byte_may_be_in_line(self):
        text = script(ONE_AT_A_TIME).replace(
            "    total = 0\n", "    client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)\n"
            "    total = 0\n")
        self.assert_right(text, "17", 1)

    def test_who_has_started_it_may_say_the_line(self):
        inner = os.path.join(self.place.name, "inner")
        with open(inner, "w", encoding="utf-8") as file:
            file.write(script(ONE_AT_A_TIME))
        os.chmod(inner, 0o755)
        self.assert_right(
            f"#!{sys.executable}\nimport subprocess, sys\ninner = subprocess.Popen([{inner!r}, "
            "*sys.argv[1:]], stdout=subprocess.PIPE, text=True)\nprint(inner.stdout.readline(), "
            "end='', flush=True)\ninner.wait()\n", "0", 1)

    def test_some_processes_may_serve_one_client_each(self):
        text = script(ONE_AT_A_TIME).replace("while True:",
                                             "os.fork() and os.fork()\nwhile True:", 1)
        self.assert_right(text, "3", 1, "1,497 of 1,500 clients left in the queue",
                          "When one leaves, the next one is")

    def test_the_kernel_may_hold_much(self):
        text = script(ONE_AT_A_TIME, on_start="os.environ.pop('LD_PRELOAD', None) and "
                      "os.execv(sys.argv[0], sys.argv)")
        self.assert_right(text, "8", 1)


class OfItsOwnKind(RightServer):
    """Servers that have changed what they are: /proc and our tools see them otherwise then."""

    def test_its_main_thread_has_ended(self):
        text = script(THREAD_EACH).replace("while True:", "def loop():\n  while True:").replace(
            "    time.sleep(0.002)", "    time.sleep(0)")
        head, body = text.split("  while True:\n")
        text = head + "  while True:\n" + "".join("  " + line + "\n" for line in body.splitlines())
        text += "import ctypes\nthreading.Thread(target=loop).start()\n" \
            "ctypes.CDLL(None).pthread_exit(None)\n"
        status, output = self.check(text, "1,9", 3)
        self.assertEqual(status, 0, output)

    def test_it_says_in_its_own_words_that_this_is_no_frame(self):
        text = script(THREAD_EACH, reply="if data[:4] != b'EVLP' or data[4] + data[5] // 17: "
                                         "print('what?', file=sys.stderr, flush=True); return")
        text = text.replace("return\n", "return\n                client.sendall(data)\n").replace(
            "[4] + data[5] // 17", "[4:8] > bytes([0, 16, 0, 0])")
        self.assertIn("P no frame, or one that is too long: closed, and said",
                      self.check(text, "20", 7)[1])

    def test_urgent_bytes_are_part_of_its_stream(self):
        text = script(THREAD_EACH, reply="client.setsockopt(socket.SOL_SOCKET, "
                                         "socket.SO_OOBINLINE, 1); client.sendall(data)")
        status, output = self.check(text, "17", 3)
        self.assertEqual(status, 0, output)

    def test_its_child_has_a_session_of_its_own(self):
        text = script(ONE_AT_A_TIME, on_start="child = os.fork(); child and (os.waitpid(child, 0), "
                                              "os._exit(1)); os.setsid()")
        status, output = self.check(text, "18")
        self.assertEqual(status, 0, output)
        self.assert_nobody_left()

    def test_who_is_accepted_and_forgotten_is_not_in_the_queue(self):
        client = mock.Mock(accepted=lambda: True)
        with self.assertRaisesRegex(harness.Fail, "is accepted and gets no answer"):
            sharing.only_one(mock.Mock(describe=str), [client] * 2)

    def test_another_user_may_not_be_given_limits(self):
        server = mock.Mock(pids=[1])
        with mock.patch.object(resource, "prlimit", side_effect=PermissionError):
            with self.assertRaisesRegex(harness.NotTried, "CAP_SYS_RESOURCE"):
                harness.Server.limit_fds(server)

    def test_a_filter_of_system_calls_ends_it_under_the_shim(self):
        text = script(ONE_AT_A_TIME, reply="client.sendall(data); 'SHIM' in os.environ and "
                                           "os.kill(os.getpid(), signal.SIGSYS)")
        self.assert_right(text, "0,14", 1, "its seccomp filter forbids a call")
        text = script(ONE_AT_A_TIME, reply="os.kill(os.getpid(), signal.SIGSYS)")
        self.assertIn("strace -f", self.check(text, "0")[1])


class Descriptors(unittest.TestCase):
    """Of a server that has several for each client, the limit of the machine may be reached."""

    def fail(self, limit, own=False):
        """What becomes of a failure, when this process is the server."""
        server = mock.Mock(own=own, pid=os.getpid())
        with mock.patch.object(kernel, "fd_limit", lambda _: limit), \
                sharing.descriptors_for(server, []):
            raise harness.Fail("no answer")

    def test_at_its_limit_it_is_not_tried(self):
        with self.assertRaisesRegex(harness.NotTried, "the limit is 2 "):
            self.fail(2)

    def test_nor_where_it_has_room_for_a_part_of_what_a_client_needs(self):
        with self.assertRaisesRegex(harness.NotTried, "the limit is"):
            self.fail(len(kernel.open_fds(os.getpid())) + 2)

    def test_a_limit_is_read_of_any_user(self):
        self.assertEqual(kernel.fd_limit(os.getpid()),
                         resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def test_below_its_limit_it_fails(self):
        for limit, own in (100_000, False), (2, True):
            with self.assertRaises(harness.Fail):
                self.fail(limit, own)


class OfARuntime(ReadersServer):
    """What some runtimes do, and others leave to their users."""

    def kind(self, runtimes):
        """Of a probe that always fails, put to a server on asyncio."""
        path = os.path.join(self.place.name, "mine")
        with open(path, "w", encoding="utf-8") as file:
            file.write(script(MANY_AT_ONCE, reply="writer.write(data)"))
        os.chmod(path, 0o755)

        def run(stage):
            stage.start()
            raise harness.Fail("no")

        probe = harness.Probe(run, 0, "", "P P P P P P P", "", "", False, "It is {}", runtimes)
        return harness.run_cell(probe, 1, [path]).kind

    def test_it_is_known_whose_it_is(self):
        for runtimes, kind in (None, "runtime"), ({"asyncio"}, "runtime"), ({"Node"}, ""):
            self.assertEqual(self.kind(runtimes), kind)

    def test_a_heap_that_grows_in_steps(self):
        server = mock.Mock(own=False, memory_kib=lambda _: 17_000)
        flood = mock.Mock(sent=1, total=2)
        with mock.patch.object(runtime, "collects", lambda _: True):
            slow.check_bounded(server, flood, 0)
        with mock.patch.object(runtime, "collects", lambda _: False):
            self.assertRaises(harness.Fail, slow.check_bounded, server, flood, 0)


class Beginners(ReadersServer):
    """A server of fifteen lines is told what is wrong with it, and what only follows."""

    def test_one_cause_is_one_row(self):
        result = self.check(script(BEGINNERS), "0,2,5,6,8,9,11,12,13,19")
        self.assert_caught(result, "is stage 1, 01-blocking, but for rows 9 and 11, and for rows "
                           "12, 13 and 19, which may only follow, as far",
                           "mend first: row 9, where the same happens",
                           "mend first: row 11: this one may only follow from it", "HINT=9")
        self.assertEqual(result[1].count("look at: why it ends"), 1, result[1])

    def test_the_same_is_seen_and_something_else_was_expected(self):
        probes.load()
        first, second = harness.probes(rows=[28], stage=7)[:2]
        its, other = (harness.Verdict("F", "", "not within 2 s", expected, "a byte", [], 0.0)
                      for expected in ("its end", "an answer"))
        said = check.failure(second, 7, other, [(first, its)])
        self.assertIn("expected: an answer", said)
        self.assertNotIn("mend first", said)
        self.assertNotIn("expected:", check.failure(second, 7, its, [(first, its)]))

    def test_with_two_mistakes_mended_it_is_stage_1(self):
        text = script(BEGINNERS).replace(
            "    client, address = listener.accept()\n",
            "    try:\n        client, address = listener.accept()\n    except OSError:\n"
            "        time.sleep(0.1)\n        continue\n    try:\n")
        text = text.replace("    while data", "        while data").replace(
            "        client.sendall(data)\n    client.close()",
            "            client.sendall(data)\n    except OSError:\n        pass\n"
            "    client.close()").replace("import socket", "import time, socket")
        status, output = self.check(text, "0,2,5,6,8,9,11,12,13,14,17,18,19")
        self.assertEqual(status, 0, output)

    def test_what_only_follows_is_told_from_what_does_not(self):
        text = script(ONE_AT_A_TIME, reply="client.send(data)")
        self.assert_caught(
            self.check(text, "0,1,5,10,14,16,18", 2),
            "not rows 1, 10 and 14, and not rows 5, 16 and 18, which may only follow")

    def test_bytes_are_no_text(self):
        text = script(BEGINNERS).replace("sendall(data)", "sendall(data.decode().encode())")
        self.assert_caught(self.check(text), "UnicodeDecodeError", "which may be no text")

    def test_what_is_said_of_the_line_is_about_the_line(self):
        text = script(BEGINNERS).replace("mine listening on 127.0.0.1:", "port ")
        self.assert_caught(self.check(text), "0 FAIL takes --port, says where it listens",
                           "hint: listen first, then print the line")


class Chapters(unittest.TestCase):
    """A lesson is named by the chapter that teaches it, whichever stage was asked for."""

    def test_the_chapter_that_teaches_it(self):
        probes.load()
        for row, number, kind, chapter in (
                (12, 2, "spins", 4), (12, 4, "spins", 4), (12, 5, "spins", 4), (12, 6, "spins", 4),
                (12, 2, "hangs", 5), (12, 6, "hangs", 6), (7, 3, "drops", 5), (7, 5, "freezes", 4),
                (3, 1, "refuses", 2), (3, 2, "one", 1), (4, 2, "grows", 3), (28, 3, "dies", 7)):
            with self.subTest(row=row, stage=number, kind=kind):
                probe = harness.probes([row], number)[0]
                verdict = harness.Verdict("L", kind, "", "", "", [], 0)
                self.assertIs(check.passes(probe, number, verdict, False), True)
                self.assertRegex(check.lesson_told(probe, number, verdict),
                                 rf"^lesson, .* chapter {chapter} ")


class Following(unittest.TestCase):
    """What was seen in two rows decides whether one may follow from the other."""

    GROWS = "841 us of CPU per message with 3,000 idle clients, 30 with 100: 27.6 times as much"
    BUSY = "0 of 16 bytes came; nothing more comes: the server is running (state R), and goes in " \
        "circles, 16 bytes of this client unread"
    ALONE = "0 of 16 bytes came; nothing more comes: the server sleeps in recv(), 16 bytes of " \
        "this client unread"

    def follows(self, *seen):
        """Does the last of these rows follow from those before it?"""
        probes.load()
        failed = [(harness.probes([row])[-1], harness.Verdict("F", "", text, "", "", [], 0))
                  for row, text in seen]
        return check.follows(failed, seen[-1][0])

    def test_who_needs_long_for_many(self):
        self.assertTrue(self.follows((4, self.GROWS), (31, self.BUSY)))

    def test_who_serves_one_at_a_time(self):
        self.assertTrue(self.follows((1, self.ALONE), (18, self.ALONE)))
        self.assertFalse(self.follows((1, self.ALONE), (18, self.BUSY)))

    def test_a_line_that_comes_too_early_explains_nothing(self):
        self.assertFalse(self.follows((0, "when it writes 'x' it does not listen yet"),
                                      (18, self.ALONE)))

    def test_an_end_that_comes_early(self):
        early = "the connection ended (end of file) after 53,352 of 61,560 bytes"
        self.assertTrue(self.follows((6, early), (14, "end of file: 1 byte came back right, "
                                                  "then nothing more came")))
        self.assertFalse(self.follows((6, early), (14, "byte 3 differs")))

    def test_what_a_child_inherits_follows_from_nothing(self):
        self.assertFalse(self.follows((9, self.BUSY), (19, "descriptor 3 (socket:[1]) stays open "
                                                       "in a child process")))

    def test_one_that_is_busy_in_the_soak(self):
        self.assertTrue(self.follows((9, self.BUSY), (32, "at step 200: 23 clients get no more; "
                                                      "the server is running (state R)")))

    def test_bytes_that_were_read_are_no_bytes_that_wait(self):
        self.assertFalse(self.follows((5, self.ALONE), (14, self.ALONE.replace("16 b", "0 b"))))


class SlowEnd(ReadersServer):
    """A server that is about to end resets its connections first: that it ends is said."""

    def test_it_is_waited_for(self):
        path = os.path.join(self.place.name, "mine")
        with open(path, "w", encoding="utf-8") as file:
            file.write(script(ONE_AT_A_TIME, reply="client.close(); "
                              "[0 for _ in range(10_000_000)]; os._exit(3)"))
        os.chmod(path, 0o755)

        def run(stage):
            client = stage.start().connect()
            client.send(b"x")
            client.wait(what="an end")
            client.try_receive()

        probe = harness.Probe(run, 0, "", "P P P P P P P", "", "", False, "")
        self.assertIn("exited with status 3", harness.run_cell(probe, 1, [path]).seen)

        def run_on(stage):
            client = stage.start().connect()
            client.send(b"x")
            harness.wait_for(client.server.exited, "its end")
            client.server.limit_fds()

        probe = harness.Probe(run_on, 0, "", "P P P P P P P", "", "", False, "")
        self.assertIn("exited with status 3", harness.run_cell(probe, 1, [path]).seen)


class Threads(unittest.TestCase):
    """Of a server with thousands of threads, no look at each of them for each answer."""

    def test_an_answer_that_comes_is_not_waited_for(self):
        stage = harness.Stage(1, build=os.environ.get("BUILD", harness.BUILD))
        self.addCleanup(stage.stop)
        client = stage.start().connect()
        with mock.patch.object(kernel, "waited_ns", side_effect=AssertionError):
            client.roundtrip()


class Heap(unittest.TestCase):
    """Row 19, and a heap that grows by these KiB with each 5,000 clients."""

    def grow(self, steps, collects):
        """What require_bounded() says: None if it is content."""
        sizes, size = [], 0
        for step in steps:
            size += step
            sizes.append(size)
        server = mock.Mock(own=False, pid=1, memory_kib=mock.Mock(side_effect=sizes))
        with mock.patch.object(runtime, "collects", lambda pid: collects):
            return leaving.require_bounded(server, mock.Mock(clients=5000), 0)

    def test_levels_off_late(self):
        self.grow([40_000] * 7 + [500], True)
        self.grow([90_000] * 5 + [40_000] * 5, True)

    def test_never_levels_off(self):
        for collects in True, False:
            with self.assertRaisesRegex(harness.Fail, "more memory after each 5,000 clients"):
                self.grow([40_000] * 10, collects)

    def test_in_the_soak(self):
        party = mock.Mock(memory=[1000] * 5 + [9000] * 2, clients=270)
        party.stage.own = False
        for collects in True, False:
            with self.subTest(collects=collects), \
                    mock.patch.object(runtime, "collects", lambda pid: collects):
                if collects:
                    soak.Soak.check_memory(party)
                else:
                    with self.assertRaisesRegex(harness.Fail, "8,000 KiB more memory"):
                        soak.Soak.check_memory(party)


MAPPED = {  # by what a process has mapped; '' for a neighbour that is none of them
    "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so": "Java",
    "/usr/bin/node": "Node",
    "/usr/lib/x86_64-linux-gnu/libnode.so.108": "Node",
    "/home/me/.deno/bin/deno": "Deno",
    "/usr/local/bin/bun": "Bun",
    "/usr/lib/dotnet/shared/Microsoft.NETCore.App/8.0.1/libcoreclr.so": ".NET",
    "/usr/lib/erlang/erts-13.1.5/bin/beam.smp": "Erlang",
    "/var/lib/gems/3.1.0/extensions/x86_64-linux/3.1.0/io-event-1.3/IO_Event.so":
        "a reactor of Ruby",
    "/usr/lib/x86_64-linux-gnu/ruby/vendor_ruby/3.1.0/nio4r_ext.so": "a reactor of Ruby",
    "/usr/lib/x86_64-linux-gnu/ruby/vendor_ruby/3.1.0/rubyeventmachine.so": "EventMachine",
    "/usr/lib/x86_64-linux-gnu/libruby-3.1.so.3.1.2": "Ruby",
    "/usr/local/bin/ruby3.3": "Ruby",
    "/usr/lib/php/20220829/swoole.so": "an event loop of PHP",
    "/usr/bin/php8.2": "PHP",
    "/usr/lib/python3/dist-packages/uvloop/loop.cpython-311-x86_64-linux-gnu.so": "uvloop",
    "/usr/lib/python3/dist-packages/gevent/_gevent_chub.cpython-311-x86_64-linux-gnu.so": "gevent",
    "/usr/lib/python3/dist-packages/zope/interface/_zope_interface_coptimizations.so": "Twisted",
    "/usr/lib/python3.11/lib-dynload/_asyncio.cpython-311-x86_64-linux-gnu.so": "asyncio",
    "/usr/bin/racket": "Racket",
    "/usr/lib/x86_64-linux-gnu/libuv.so.1.0.0": "libuv",
    "/usr/lib/x86_64-linux-gnu/libevent_core-2.1.so.7.0.1": "libevent",
    "/usr/lib/x86_64-linux-gnu/libevent-2.1.so.7.0.1": "libevent",
    "/usr/lib/x86_64-linux-gnu/libev.so.4.0.0": "libev",
    "/usr/lib/x86_64-linux-gnu/perl5/5.36/auto/EV/EV.so": "libev",
    "/usr/lib/x86_64-linux-gnu/libc.so.6": "",
    "/usr/lib/x86_64-linux-gnu/libevdev.so.2.3.0": "",
    "/home/me/nodes": "",
}
COMPILED = {  # by bytes that a compiler has left in a program
    b"\xff Go buildinf:": "Go", b"base_GHCziEventziManager_": "GHC",
    b"registry/src/index.crates.io-6f17d22bba15001f/tokio-1.38.0/src/lib.rs": "Tokio",
    b"registry/src/github.com-1ecc6299db9ec823/mio-0.8.11/src/lib.rs": "mio",
    b"_ZN5muduo3net9EventLoopC1Ev": "muduo", b"_ZN5boost4asio6detail11epoll_reactor3runE": "Asio",
}


class Runtimes(unittest.TestCase):
    """Which runtime it is, is seen from outside."""

    def test_of_this_process(self):
        self.assertEqual(runtime.event_loop(os.getpid()),
                         "asyncio" if "_asyncio" in sys.modules else "")

    def test_of_a_script(self):
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".py") as file:
            file.write("import time, sys\nif len(sys.argv) > 9:\n    import os, trio\n"
                       "time.sleep(60)\n")
            file.flush()
            process = subprocess.Popen([sys.executable, file.name])
            try:
                harness.wait_for(lambda: kernel.blocked_calls(process.pid), "it sleeps")
                self.assertEqual(runtime.event_loop(process.pid), "trio")
            finally:
                process.kill()
                process.wait()

    def test_by_what_is_mapped(self):
        for path, name in MAPPED.items():
            line = f"7f5c10000000-7f5c10021000 r-xp 00000000 fe:01 1234    {path}\n"
            with self.subTest(path), mock.patch.object(runtime, "compiled_in", lambda _: None), \
                    mock.patch.object(kernel, "read_file", lambda path, line=line: "cat\n" + line):
                self.assertEqual(runtime.name(1), name)

    def test_by_what_a_compiler_has_left(self):
        for mark, name in COMPILED.items():
            with self.subTest(mark), tempfile.NamedTemporaryFile() as program:
                program.write(b"\x7fELF" + bytes(5000) + mark + bytes(5000))
                program.flush()
                self.assertEqual(runtime.compiled_in(program.name).name, name)

    def test_each_is_tested(self):
        self.assertEqual({known.name for known in runtime.MAPPED.values()},
                         {*MAPPED.values()} - {""})
        self.assertEqual({known.name for known in runtime.COMPILED.values()},
                         {*COMPILED.values()})

    def of_command(self, *command):
        """The event loop of a command, once it sleeps."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            process.stdout.read(1)
            return runtime.event_loop(process.pid)
        finally:
            process.stdout.close()
            process.kill()
            process.wait()

    @unittest.skipUnless(shutil.which("racket"), "apt-get install racket")
    def test_racket(self):
        self.assertEqual(self.of_command("racket", "-e", '(display ".")(flush-output)'
                                         "(sleep 1000)"), "Racket")

    @unittest.skipIf(subprocess.call(["perl", "-MEV", "-e1"], stderr=subprocess.DEVNULL),
                     "apt-get install libev-perl")
    def test_ev_of_perl(self):
        self.assertEqual(self.of_command("perl", "-MEV", "-e", "$| = 1; print '.'; sleep 1000"),
                         "libev")

    @unittest.skipUnless(shutil.which("node"), "apt-get install nodejs")
    def test_node(self):
        probes.load()
        stage = harness.Stage(6, [shutil.which("node"), "-e", """
            const server = require('net').createServer(c => c.pipe(c));
            server.listen(0, '127.0.0.1', 4096, () =>
                console.log('listening on 127.0.0.1:' + server.address().port));""", "--"])
        self.addCleanup(stage.stop)
        self.assertEqual(stage.start().event_loop, "Node")


class Ticks(unittest.TestCase):
    """Row 15, and a runtime that looks at its clock ten times a second, beside busy processes."""

    def ask(self, seconds, count=1, own=False):
        """Is it quiet enough, when it wakes up so often in that time?"""
        waiters = mock.Mock(count=lambda: count, cpu_ms=lambda: 0.5 * count)
        with mock.patch.object(slow, "rest", lambda _: waiters), \
                mock.patch.object(slow.time, "monotonic", itertools.count(0, seconds).__next__):
            slow.require_quiet(mock.Mock(own=own, calls=lambda: None), mock.Mock(), "it is idle")

    def test_a_tick(self):
        self.ask(0.1)
        self.ask(0.5, count=5)

    def test_what_is_no_tick(self):
        for wrong in {"seconds": 0.1, "count": 3}, {"seconds": 0.01}, {"seconds": 1, "own": True}:
            with self.subTest(wrong), self.assertRaisesRegex(harness.Fail, "wake-ups?"):
                self.ask(**wrong)


class Rooms(unittest.TestCase):
    """What listen() was given is read from the kernel."""

    def test_backlog(self):
        stage = harness.Stage(1, build=os.environ.get("BUILD", harness.BUILD))
        self.addCleanup(stage.stop)
        with open("/proc/sys/net/core/somaxconn", encoding="ascii") as file:
            self.assertEqual(stage.start().backlog(), int(file.read()))


if __name__ == "__main__":
    unittest.main()
