"""07-http: what it answers, when it closes, and that no bytes make it lose its place.

Most tests speak HTTP by hand, because a good client cannot say what has to be refused. Two clients
that nobody here wrote are asked as well: Python's http.client, and curl where it is installed.
"""

import calendar
import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import unittest

from tests import harness
from tests.outside import kernel

PROGRAM = os.path.join(harness.BUILD, "07-http")
KIB, MIB = harness.KIB, harness.MIB
ROW = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.\n"
HEAD_LIMIT = 8 * KIB  # bytes
DATE = "%a, %d %b %Y %H:%M:%S GMT"


def rows(size):
    """What /bytes/SIZE holds."""
    return (ROW * (size // len(ROW) + 1))[:size]


def get(path="/bytes/5", *fields, method="GET", version="1.1", body=b""):
    """A request with a Host and further fields."""
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def beginning(line):
    """A request with this first line, and nothing wrong behind it."""
    return line + b"\r\nHost: test\r\n\r\n"


def padded(size):
    """A request whose head has exactly so many bytes."""
    return get("/bytes/5", "X: " + "x" * (size - len(get("/bytes/5", "X: "))))


class Answer:
    """One answer: .status, .fields (names in lower case), .body."""

    def __init__(self, head):
        line, *fields = head.decode("latin-1").split("\r\n")
        version, status, self.reason = line.split(" ", 2)
        if version != "HTTP/1.1":
            raise harness.Fail(line, expected="HTTP/1.1")
        self.status, self.body = int(status), b""
        pairs = [field.split(": ", 1) for field in fields]
        self.fields = {name.lower(): value for name, value in pairs}
        if len(self.fields) != len(pairs):
            raise harness.Fail(f"a field twice: {head}")


class Browser:
    """A client that reads answers one by one, and keeps what comes behind them.

    request: what is there before the server can accept it.
    """

    def __init__(self, server, request=b""):
        self.client = server.connect_with(request)[0] if request else server.connect()
        self.data = bytearray()

    def more(self):
        """Wait for more bytes."""
        while not (data := self.client.try_receive()):
            self.client.wait(what="an answer")
        self.data += data

    def take(self, count):
        """The next `count` bytes."""
        while len(self.data) < count:
            self.more()
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken

    def answer(self, method="GET"):
        """The next answer."""
        while (end := self.data.find(b"\r\n\r\n")) == -1:
            self.more()
        answer = Answer(self.take(end + 4)[:-4])
        if method != "HEAD" and answer.status != 204:
            answer.body = self.take(int(answer.fields["content-length"]))
        return answer

    def ask(self, request, method="GET"):
        """Send a request, and wait for the answer."""
        self.client.send(request)
        return self.answer(method)

    def expect_end(self):
        """The server closes in an orderly way, and has said nothing more."""
        if self.data:
            raise harness.Fail(bytes(self.data), expected="end of file")
        self.client.expect_end()


class Http(unittest.TestCase):
    """A server of its own for each test."""

    def setUp(self):
        self.stage = harness.Stage(7, [PROGRAM])
        self.addCleanup(self.stage.stop)
        self.server = self.stage.start(*self.arguments)

    def tearDown(self):
        self.stage.finish()  # it lives, and no sanitizer has spoken

    arguments = ()

    def browser(self, request=b""):
        """A new connection."""
        return Browser(self.server, request)

    def alive(self, browser):
        """Is this connection still in step?"""
        self.assertEqual(browser.ask(get("/bytes/100")).body, rows(100))

    def rss_kib(self):
        """Memory of the server."""
        return kernel.memory_kib(self.server.pid)


class Answers(Http):
    """What comes back for requests that are as they should be."""

    def test_page(self):
        answer = self.browser().ask(get("/"))
        self.assertEqual((answer.status, answer.reason), (200, "OK"))
        self.assertEqual(answer.fields["content-type"], "text/html")
        self.assertEqual(answer.fields["connection"], "keep-alive")
        self.assertTrue(answer.body.startswith(b"<!DOCTYPE html>"))
        self.assertTrue(answer.body.endswith(b"</html>\n"))

    def test_bytes(self):
        browser = self.browser()
        for size in (0, 1, 63, 64, 65, 5000, 64 * KIB, MIB):
            answer = browser.ask(get(f"/bytes/{size}"))
            self.assertEqual(answer.status, 200)
            self.assertEqual(answer.fields["content-type"], "text/plain")
            self.assertTrue(answer.body == rows(size), size)

    def test_not_found_keeps_the_connection(self):
        browser = self.browser()
        for path in ("/x", "/bytes", "/bytes/", "/bytes/x", "/bytes/1x", "/bytes/-1", "/bytes/1/",
                     "/bytes/1048577", "/bytes/99999999999999999999", "//", "/index.html"):
            with self.subTest(path=path):
                answer = browser.ask(get(path))
                self.assertEqual((answer.status, answer.body), (404, b"404 Not Found\r\n"))
        self.alive(browser)

    def test_query_and_absolute_form(self):
        browser = self.browser()
        for target in ("/bytes/7?a=b/c", "http://example.com/bytes/7", "HTTP://x:1/bytes/7?y",
                       "http://[::1]:1/bytes/7"):
            self.assertEqual(browser.ask(get(target)).body, rows(7), target)
        self.assertEqual(browser.ask(get("http://example.com")).fields["content-type"],
                         "text/html")

    def test_escapes_that_are_not_needed(self):
        browser = self.browser()
        self.assertEqual(browser.ask(get("/%62ytes/%37")).body, rows(7))
        self.assertEqual(browser.ask(get("/bytes%2F7")).status, 404)

    def test_options_says_what_is_allowed(self):
        browser = self.browser()
        for target in ("*", "/", "/bytes/7", "/healthy", "http://a/bytes/7"):
            with self.subTest(target=target):
                answer = browser.ask(get(target, method="OPTIONS"))
                self.assertEqual((answer.status, answer.reason), (204, "No Content"))
                self.assertEqual(answer.fields.get("allow"), "GET, HEAD, OPTIONS")
                self.assertNotIn("content-length", answer.fields)
        self.assertEqual(browser.ask(get("/none", method="OPTIONS")).status, 404)
        self.alive(browser)

    def test_load_balancer_asks_whether_it_is_up(self):
        """As HAProxy does by default: "option httpchk" says no more than this."""
        answer = self.browser().ask(b"OPTIONS / HTTP/1.0\r\n\r\n")
        self.assertEqual(answer.status, 204)
        answer = self.browser().ask(get("/healthy"))
        self.assertEqual((answer.status, answer.body), (200, b"yes\n"))

    def test_head_has_the_same_fields_and_no_body(self):
        browser = self.browser()
        for path in ("/", "/bytes/0", "/bytes/1048576", "/x"):
            with self.subTest(path=path):
                whole = browser.ask(get(path))
                head = browser.ask(get(path, method="HEAD"), "HEAD")
                whole.fields.pop("date"), head.fields.pop("date")
                self.assertEqual((head.status, head.fields), (whole.status, whole.fields))
        self.alive(browser)

    def test_head_that_is_refused_has_no_body(self):
        browser = self.browser()
        answer = browser.ask(get("/", "X : y", method="HEAD"), "HEAD")
        self.assertEqual((answer.status, answer.fields["connection"]), (400, "close"))
        browser.expect_end()

    def test_methods(self):
        browser = self.browser()
        for method, status in (("POST", 405), ("PUT", 405), ("DELETE", 405),
                               ("TRACE", 405), ("PATCH", 405), ("get", 501), ("BREW", 501)):
            with self.subTest(method=method):
                answer = browser.ask(get("/", method=method))
                self.assertEqual(answer.status, status)
                self.assertEqual(answer.fields.get("allow"),
                                 "GET, HEAD, OPTIONS" if status == 405 else None)
        self.assertEqual(browser.ask(get("a:1", method="CONNECT")).status, 405)
        self.alive(browser)

    def test_date_is_now_and_moves_on(self):
        browser = self.browser()

        def date():
            text = browser.ask(get()).fields["date"]
            self.assertRegex(text, r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")
            return calendar.timegm(time.strptime(text, DATE))

        before = int(time.time())
        first = date()
        self.assertGreaterEqual(first, before - 2)  # it is asked for once a second
        self.assertLessEqual(first, time.time())
        harness.wait_for(lambda: date() > first, "a later date", self.server)

    def test_half_close_is_answered_in_full(self):
        browser = self.browser()
        browser.client.send(get("/bytes/1048576") * 9 + get("/bytes/3"))
        browser.client.half_close()
        for _ in range(9):
            self.assertTrue(browser.answer().body == rows(MIB))
        self.assertEqual(browser.answer().body, rows(3))
        browser.expect_end()

    def test_half_of_a_request_is_not_answered(self):
        browser = self.browser()
        browser.client.send(get()[:-1])
        browser.client.half_close()
        browser.expect_end()


class Pieces(Http):
    """Bytes come as they like."""

    def arrived(self, browser):
        """Wait until the server has read what was sent, and done with it what it can."""
        harness.wait_for(lambda: browser.client.accepted() and not browser.client.unread()
                         and self.server.asleep(), "the server reads", self.server)

    def test_split_at_every_byte(self):
        request = get("/bytes/9") + get("/", "Content-Length: 8", method="POST", body=b"GET / HT")
        browser = self.browser()
        for cut in range(1, len(request)):
            browser.client.send(request[:cut])
            self.arrived(browser)
            browser.client.send(request[cut:])
            self.assertEqual(browser.answer().body, rows(9), cut)
            self.assertEqual(browser.answer().status, 405, cut)
        self.alive(browser)

    def test_one_byte_at_a_time(self):
        browser = self.browser()
        for byte in get("/bytes/9", "X: y") + b"\r\n" + get("/", method="HEAD"):
            browser.client.send(bytes([byte]))
            self.arrived(browser)
        self.assertEqual(browser.answer().body, rows(9))
        self.assertEqual(browser.answer("HEAD").status, 200)
        self.alive(browser)

    def test_thousand_in_one_segment(self):
        browser = self.browser()
        request = b"".join(get(f"/bytes/{i}") for i in range(1000))
        self.assertLess(len(request), 64 * KIB)  # what loopback takes as one
        self.assertEqual(browser.client.try_send(request), len(request))
        for i in range(1000):
            self.assertTrue(browser.answer().body == rows(i), i)
        self.alive(browser)

    def test_close_in_the_middle_of_a_segment(self):
        browser = self.browser()
        browser.client.send(get("/bytes/1") + get("/bytes/2", "Connection: close")
                            + get("/bytes/3"))
        self.assertEqual(browser.answer().body, rows(1))
        self.assertEqual(browser.answer().body, rows(2))
        browser.expect_end()

    def test_line_feeds_alone_and_empty_lines_before(self):
        browser = self.browser()
        self.assertEqual(browser.ask(b"GET /bytes/4 HTTP/1.1\nHost: a\n\n").body, rows(4))
        self.assertEqual(browser.ask(b"\r\n\r\n\n" + get()).body, rows(5))

    def test_client_that_does_not_read_costs_two_answers_at_most(self):
        browser = self.browser()
        self.alive(browser)
        before, count = self.rss_kib(), 64
        browser.client.send(get("/bytes/1048576") * count)
        harness.wait_for(lambda: browser.client.readable() and self.server.asleep(), "an answer",
                         self.server)
        self.alive(self.browser())
        self.assertLess(self.rss_kib() - before, 8 * KIB)  # of 64 MiB
        for _ in range(count):
            self.assertTrue(browser.answer().body == rows(MIB))
        self.alive(browser)


class Bodies(Http):
    """Nobody wants them, and all the same the next request begins behind them."""

    def test_body_is_skipped(self):
        browser = self.browser()
        evil = get("/bytes/666")
        for method, status in (("POST", 405), ("GET", 200), ("BREW", 501)):
            browser.client.send(get("/", f"Content-Length: {len(evil)}", method=method, body=evil)
                                + get("/bytes/2"))
            self.assertEqual(browser.answer().status, status)
            self.assertEqual(browser.answer().body, rows(2))
        self.alive(browser)

    def test_body_of_a_mebibyte_is_skipped(self):
        browser = self.browser()
        before = self.rss_kib()
        for _ in range(10):
            browser.client.send(get("/", f"content-length: {MIB}", method="POST", body=rows(MIB)))
            self.assertEqual(browser.answer().status, 405)
        self.alive(browser)
        self.assertLess(self.rss_kib() - before, 4 * KIB)

    def test_body_in_chunks_is_skipped(self):
        browser = self.browser()
        evil = get("/bytes/666")
        chunks = b"%x\r\n%s\r\n" % (len(evil), evil)
        for end in (b"0\r\n\r\n", b"000;a=b\r\nX: y\r\n\r\n"):
            request = get("/", "Transfer-Encoding: chunked", method="POST") + 2 * chunks + end
            browser.client.send(request + get("/bytes/2"))
            self.assertEqual(browser.answer().status, 405)
            self.assertEqual(browser.answer().body, rows(2))
        self.alive(browser)

    def test_chunks_of_a_mebibyte_cost_no_memory(self):
        browser = self.browser()
        before = self.rss_kib()
        chunk = b"fff\r\n" + b"." * 0xfff + b"\r\n"
        for _ in range(10):
            request = get("/", "transfer-encoding: Chunked", method="POST")
            browser.client.send(request + chunk * 255 + b"0\r\n\r\n")
            self.assertEqual(browser.answer().status, 405)
        self.alive(browser)
        self.assertLess(self.rss_kib() - before, 4 * KIB)

    def test_chunks_that_cannot_be_read_end_the_connection(self):
        for chunks in (b"x\r\n", b"5\r\nhello!\r\n", b"1\na\n0\n\n", b"100001\r\n",
                       b"0\r\n X: y\r\n\r\n", b"." * 4096):
            with self.subTest(chunks=chunks[:20]):
                browser = self.browser()
                request = get("/bytes/5", "Transfer-Encoding: chunked", body=chunks)
                self.assertEqual(browser.ask(request + get("/bytes/666")).body, rows(5))
                browser.expect_end()

    def test_answer_does_not_wait_for_the_body(self):
        browser = self.browser()
        request = get("/", "Content-Length: 10", "Expect: 100-continue", method="PUT")
        self.assertEqual(browser.ask(request).status, 405)
        browser.client.send(b"0123456789")
        self.alive(browser)


class Closing(Http):
    """Who closes, and when."""

    def test_keep_alive_matrix(self):
        for version, fields, keeps in (
                ("1.1", [], True), ("1.1", ["Connection: keep-alive"], True),
                ("1.1", ["Connection: close"], False), ("1.1", ["CONNECTION:  Close "], False),
                ("1.1", ["Connection: x, close"], False),
                ("1.1", ["Connection: x", "Connection: close"], False),
                ("1.1", ["Connection: keep-alive, close"], False),
                ("1.1", ["Connection: closed"], True), ("1.2", [], True),
                ("1.0", [], False), ("1.0", ["Connection: close"], False),
                ("1.0", ["Connection: keep-alive"], True),
                ("1.0", ["Connection: Keep-Alive, x"], True),
                ("1.0", ["Connection: keep-alive, close"], False)):
            for path, status in (("/bytes/5", 200), ("/x", 404)):
                with self.subTest(version=version, fields=fields, path=path):
                    browser = self.browser()
                    answer = browser.ask(get(path, *fields, version=version))
                    self.assertEqual(answer.status, status)
                    self.assertEqual(answer.fields["connection"],
                                     "keep-alive" if keeps else "close")
                    if keeps:
                        self.alive(browser)
                    else:
                        browser.expect_end()

    def test_old_request_needs_no_host(self):
        browser = self.browser()
        self.assertEqual(browser.ask(b"GET /bytes/3 HTTP/1.0\r\n\r\n").body, rows(3))
        browser.expect_end()

    # What is refused, and with what. A request follows each, and must not be answered.
    REFUSED = (
        *((400, beginning(line)) for line in (
            b"GET /", b"nonsense", b"\x16\x03\x01\x02", b"GET  / HTTP/1.1", b" GET / HTTP/1.1",
            b"GET / HTTP/1.1 ", b"GET\t/ HTTP/1.1", b"GET /a b HTTP/1.1", b"G[T / HTTP/1.1",
            b"GET bytes HTTP/1.1", b"GET * HTTP/1.1", b"OPTIONS a HTTP/1.1", b"CONNECT / HTTP/1.1",
            b"GET /a|b HTTP/1.1", b"GET /a#b HTTP/1.1", b"GET /%4 HTTP/1.1", b"GET /?% HTTP/1.1",
            b"GET http:///a HTTP/1.1", b"GET http://:1/ HTTP/1.1", b"GET http://a:b/ HTTP/1.1",
            b"GET /\0 HTTP/1.1", b"GET /\xff HTTP/1.1",
            b"GET / HTTP/11", b"GET / http/1.1", b"GET / HTTP/1.1x", b"GET / HTTP/1,1")),
        *((505, beginning(line)) for line in (
            b"GET / HTTP/2.0", b"PRI * HTTP/2.0", b"GET / HTTP/0.9")),
        *((400, b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host) for host in (
            b"a b", b"a/b", b"a?b", b"a@b", b"a:b", b"[::1", b"a|b", b"[::g]", b"a%4")),
        (400, b"GET / HTTP/1.1\r\n\r\n"), (400, get("/", "Host: test")),
        (400, get("/", "host: other")),
        (400, get("/", "X : y")), (400, get("/", "X\t: y")), (400, get("/", "X: y", " z")),
        (400, get("/", "X: y", "\tz: a")), (400, beginning(b"GET / HTTP/1.1\r\n X: a")),
        (400, get("/", "X")), (400, get("/", ": y")), (400, get("/", "X(: y")),
        (400, get("/", "X: a\rb")), (400, get("/", "X: a\0b")), (400, get("/", "X: \x07")),
        (400, get("/", "Content-Length: x")), (400, get("/", "Content-Length:")),
        (400, get("/", "Content-Length: -1")), (400, get("/", "Content-Length: +1")),
        (400, get("/", "Content-Length: 0x10")), (400, get("/", "Content-Length: 1 1")),
        (400, get("/", "Content-Length: 1, 2")),
        (400, get("/", "Content-Length: 1", "Content-Length: 2")),
        (400, get("/", "Content-Length: 1", "Content-Length: 1")),
        (413, get("/", "Content-Length: 1048577", method="POST")),
        (413, get("/", "Content-Length: 99999999999999999999", method="POST")),
        (400, get("/", "Transfer-Encoding: chunked, gzip", method="POST")),
        (400, get("/", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", method="POST")),
        (400, get("/", "Transfer-Encoding: identity", method="POST")),
        (400, get("/", "Transfer-Encoding: chunked", version="1.0", method="POST")),
        (400, get("/", "Content-Length: 3", "transfer-encoding: chunked", method="POST")),
        (501, get("/", "Transfer-Encoding: gzip, chunked", method="POST")),
        (431, padded(HEAD_LIMIT + 1)),
        (414, get("/" + "x" * HEAD_LIMIT)),
    )

    def test_refused_and_closed(self):
        for status, request in self.REFUSED:
            with self.subTest(request=request[:80], status=status):
                browser = self.browser()
                self.alive(browser)  # so that its end is not that of a failed beginning
                answer = browser.ask(request + get("/bytes/666"))
                self.assertEqual(answer.status, status)
                self.assertEqual(answer.fields["connection"], "close")
                self.assertEqual(answer.body, f"{status} {answer.reason}\r\n".encode())
                browser.expect_end()
        self.alive(self.browser())

    def test_refused_as_soon_as_the_line_is_there(self):
        for request in (b"GET /\r\n", b"GET / HTTP/1.1\r\nX : y\r\n"):
            browser = self.browser()
            self.assertEqual(browser.ask(request).status, 400)
            browser.expect_end()

    def test_longest_head_is_taken(self):
        browser = self.browser()
        self.assertEqual(browser.ask(padded(HEAD_LIMIT)).body, rows(5))
        browser.client.send(padded(HEAD_LIMIT) * 20)  # several in one read
        for _ in range(20):
            self.assertEqual(browser.answer().body, rows(5))
        self.alive(browser)

    def test_answer_survives_what_is_still_sent(self):
        browser = self.browser()
        browser.client.send(b"nonsense\r\n" + b"." * MIB)
        browser.client.half_close()
        self.assertEqual(browser.answer().status, 400)
        browser.expect_end()

    def test_head_that_never_ends_costs_no_memory(self):
        browser = self.browser()
        self.alive(browser)
        before, sent = self.rss_kib(), 0
        self.assertEqual(browser.ask(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000).status, 431)
        try:
            while sent < 32 * MIB:
                count = browser.client.try_send(b"X: y\r\n" * 10000)
                sent += count
                if not count:
                    browser.client.wait(reading=False, writing=True, what="the server reads on")
        except harness.Gone:
            pass  # its deadline for clients that do not stop
        self.assertGreater(sent, 64 * KIB)
        self.assertLess(self.rss_kib() - before, 4 * KIB)

    def test_unfinished_heads_cost_little(self):
        before = kernel.memory_kib(self.server.pid, "VmData")  # also what was never written to
        browsers = [self.browser() for _ in range(200)]
        for browser in browsers:
            browser.client.send(padded(HEAD_LIMIT)[:-1])
        for browser in browsers:
            harness.wait_for(lambda b=browser: b.client.accepted() and not b.client.unread(),
                             "the server reads", self.server)
        grown = kernel.memory_kib(self.server.pid, "VmData") - before
        self.assertLess(grown, 200 * 40)  # KiB; 128 each for a whole chunk
        for browser in browsers:
            self.assertEqual(browser.ask(b"\n").body, rows(5))

    def test_descriptors_are_given_back(self):
        before = self.server.fds()
        for request in (get(), get("/", "Connection: close"), b"nonsense\r\n", get()[:-1]):
            browser = self.browser()
            browser.client.send(request)
            browser.client.half_close()
            harness.wait_for(browser.client.readable, "an answer or the end", self.server)
            browser.client.close()
        harness.wait_for(lambda: self.server.fds() == before, "the descriptors of the beginning",
                         self.server)


class Idle(Http):
    """Limits::idle, in HTTP: a whole request, or a byte sent, is progress; half a head is none."""

    arguments = ("--idle-ms", "1500")

    def test_silent_client_is_closed(self):
        browser, used = self.browser(), self.browser(get("/bytes/100"))
        self.assertEqual(used.answer().body, rows(100))
        browser.expect_end()
        used.expect_end()

    def test_slow_loris_is_closed(self):
        browser = self.browser()
        browser.client.send(get()[:-2])
        try:
            while not browser.client.readable():
                browser.client.send(b"X: y\r\n")  # below the limit for 25 s, at this pace
                time.sleep(0.02)
        except harness.Fail:
            pass  # gone in the moment between the look and the send
        with self.assertRaises(harness.Gone):
            browser.client.try_receive()


class SlowUpload(Http):
    """A body that is refused, from a client that reads no answer before it has sent all of it."""

    DRAIN = 2  # seconds without progress, after which it is given up
    arguments = ("--drain-ms", str(1000 * DRAIN))

    def test_answer_is_there_in_the_end(self):
        while not (browser := self.uploaded()):
            pass  # this machine has held us up for so long that we were rightly given up
        self.assertEqual(browser.answer().status, 413)
        browser.expect_end()

    def uploaded(self):
        """It has sent for longer than one without progress is waited for; None if it has paused."""
        before = last = time.monotonic()
        browser, end = self.browser(), last + 5
        try:
            browser.client.send(get("/", f"Content-Length: {2 * MIB}", method="POST"))
            while last < end:
                before, last = last, time.monotonic()
                browser.client.send(b".")
                if time.monotonic() - before >= self.DRAIN:
                    return None
                time.sleep(0.02)
            browser.client.half_close()
        except (harness.Fail, harness.Gone):
            if time.monotonic() - before < self.DRAIN:
                raise
            return None
        return browser if time.monotonic() - last < self.DRAIN else None


class Stop(Http):
    """SIGTERM and SIGINT, and no notice."""

    arguments = ("--notice-ms", "0", "--drain-ms", "3600000")

    def stopping(self):
        """A client that is owed 8 MiB, after the first signal has been heard."""
        browser = self.browser()
        browser.client.send(get("/bytes/1048576") * 8)
        harness.wait_for(browser.client.readable, "the first answer", self.server)
        self.server.ending = True
        self.server.signal(signal.SIGTERM)
        inodes = lambda: kernel.socket_inodes(self.server.pid)  # noqa: E731
        harness.wait_for(lambda: not kernel.listening_ports(inodes()), "no listener", self.server)
        return browser

    def test_idle_server_ends(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            server = self.stage.start(*self.arguments)
            Browser(server).ask(get())
            server.signal(number)
            self.assertEqual(server.wait_exit(), 0)

    def test_what_was_asked_is_answered(self):
        browser = self.stopping()
        for _ in range(8):
            self.assertTrue(browser.answer().body == rows(MIB))
        browser.expect_end()
        browser.client.close()
        self.assertEqual(self.server.wait_exit(), 0)

    def test_second_signal_ends_at_once(self):
        self.stopping()
        self.server.signal(signal.SIGTERM)
        self.assertEqual(self.server.wait_exit(), -signal.SIGTERM)

    def test_second_signal_of_the_other_kind_ends_at_once(self):
        self.stopping()
        self.server.signal(signal.SIGINT)
        self.assertEqual(self.server.wait_exit(), -signal.SIGINT)


class Notice(Http):
    """What a load balancer sees of a server that is going to stop, and has time to act upon."""

    arguments = ("--notice-ms", "3600000")

    def test_healthy_no_more_and_every_answer_says_close(self):
        idle, busy = self.browser(), self.browser()
        self.alive(idle)
        busy.client.send(get("/bytes/1048576") * 8)
        harness.wait_for(busy.client.readable, "the first answer", self.server)
        self.server.signal(signal.SIGTERM)

        def unhealthy():
            browser = self.browser()  # new clients are served all the same
            answer = browser.ask(get("/healthy"))
            if answer.status == 200:
                return False
            self.assertEqual((answer.status, answer.fields["connection"]), (503, "close"))
            browser.expect_end()
            return True

        harness.wait_for(unhealthy, "503", self.server)
        self.assertEqual(self.browser().ask(get("/healthy", method="OPTIONS")).status, 503)
        for browser in (idle, self.browser()):
            answer = browser.ask(get())
            self.assertEqual((answer.status, answer.fields["connection"]), (200, "close"))
            self.assertEqual(answer.body, rows(5))
            browser.expect_end()
        answers = []
        while not answers or answers[-1].fields["connection"] == "keep-alive":
            answers.append(busy.answer())
            self.assertTrue(answers[-1].body == rows(MIB))
        busy.expect_end()

    def test_second_signal_ends_at_once(self):
        self.server.ending = True
        self.server.signal(signal.SIGTERM)
        harness.wait_for(lambda: self.browser().ask(get("/healthy")).status == 503, "503",
                         self.server)
        self.server.signal(signal.SIGTERM)
        self.assertEqual(self.server.wait_exit(), -signal.SIGTERM)


class ShortNotice(Http):
    """It passes, and then the server ends."""

    arguments = ("--notice-ms", "300")

    def test_ends_when_it_is_over(self):
        browser = self.browser()
        self.alive(browser)
        self.server.ending = True
        began = time.monotonic()
        self.server.signal(signal.SIGTERM)
        self.assertEqual(self.server.wait_exit(), 0)
        self.assertGreaterEqual(time.monotonic() - began, 0.3)
        browser.expect_end()


class Others(Http):
    """Clients that nobody here wrote."""

    def test_http_client(self):
        connection = http.client.HTTPConnection(self.server.host, self.server.port,
                                                timeout=harness.FAILSAFE)
        self.addCleanup(connection.close)
        sockets = set()
        for method, path, body, status, content in (
                ("GET", "/bytes/5000", None, 200, rows(5000)), ("HEAD", "/", None, 200, b""),
                ("POST", "/", b"x" * 10000, 405, b"405 Method Not Allowed\r\n"),
                ("GET", "/bytes/1048576", None, 200, rows(MIB)),
                ("GET", "/none", None, 404, b"404 Not Found\r\n")):
            connection.request(method, path, body)
            response = connection.getresponse()
            self.assertEqual(response.status, status)
            self.assertTrue(response.read() == content, path)
            self.assertFalse(response.will_close)
            sockets.add(connection.sock.getsockname())
        self.assertEqual(len(sockets), 1, "one connection for all")

    def curl(self, *arguments, quiet=("-sS",)):
        """What curl prints to stdout."""
        if not shutil.which("curl"):
            self.skipTest("curl is not installed: apt-get install curl")
        urls = [a.replace("URL", f"http://127.0.0.1:{self.server.port}") for a in arguments]
        return subprocess.run(["curl", "-q", *quiet, "--noproxy", "*", *urls], capture_output=True,
                              timeout=harness.FAILSAFE, check=True).stdout

    def test_curl_gets_the_page(self):
        page = self.curl("URL/")
        self.assertTrue(page.startswith(b"<!DOCTYPE html>"), page)
        self.assertEqual(self.browser().ask(get("/")).body, page)

    def test_curl_uses_one_connection(self):
        told = self.curl("-w", "%{http_code} %{num_connects} %{size_download}\n", "-o", "/dev/null",
                         "-o", "/dev/null", "-o", "/dev/null", "URL/", "URL/bytes/1048576",
                         "URL/none")
        self.assertEqual(re.findall(rb"\S+ \S+ \S+", told)[1:], [b"200 0 1048576", b"404 0 15"])

    def test_curl_head_post_and_old_versions(self):
        self.assertRegex(self.curl("-I", "URL/bytes/9"),
                         rb"^HTTP/1.1 200 OK\r\n(.*\r\n)*Content-Length: 9\r\n(.*\r\n)*\r\n$")
        code = ("-o", "/dev/null", "-w", "%{http_code}")
        self.assertEqual(self.curl(*code, "-d", "a=b", "URL/"), b"405")
        self.assertEqual(self.curl(*code, "-H", "Expect: 100-continue", "-d", "a=b", "URL/"),
                         b"405")
        self.assertEqual(self.curl(*code, "-H", "Transfer-Encoding: chunked", "-d", "a", "URL/"),
                         b"405")
        self.assertEqual(self.curl(*code, "-X", "OPTIONS", "URL/"), b"204")
        self.assertEqual(self.curl("--http1.0", "URL/bytes/9"), rows(9))

    def test_chapter_shows_what_curl_prints(self):
        with open(os.path.join(harness.ROOT, "07-evloop", "HTTP.md"), encoding="utf-8") as file:
            blocks = re.findall(r"```text\n(\$ curl .*?)```", file.read(), re.S)
        self.assertEqual(len(blocks), 2)
        date = re.compile(r"Date: .*")
        for command, shown in re.findall(r"^\$ curl (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks),
                                         re.M):
            told = self.curl(*shlex.split(command.replace("http://127.0.0.1:9080", "URL")),
                             quiet=())
            self.assertEqual(date.sub("", told.decode().replace("\r", "")), date.sub("", shown))


class CommandLine(unittest.TestCase):
    """As that of the stages."""

    def run_it(self, *arguments):
        """A run that is expected to end by itself."""
        return subprocess.run([PROGRAM, *arguments], encoding="utf-8", capture_output=True,
                              timeout=harness.FAILSAFE, stdin=subprocess.DEVNULL)

    def test_help(self):
        done = self.run_it("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"--port N .*\(default 9080\)")
        self.assertRegex(done.stdout, r"--host ADDR .*\(default 127\.0\.0\.1\)")
        self.assertRegex(done.stdout, r"--idle-ms N .*\(default 60000\)")
        self.assertRegex(done.stdout, r"--notice-ms N .*\(default 1000\)")
        self.assertRegex(done.stdout, r"--drain-ms N .*\(default 5000\)")
        self.assertRegex(done.stdout, r"--reuse-port N .*\(default 0\)")

    def test_bad_usage(self):
        for arguments in (["--port", "x"], ["--idle-ms", "-1"], ["--nothing"], ["8080"],
                          ["--reuse-port", "2"], ["--notice-ms", "-1"], ["--drain-ms", "0"]):
            done = self.run_it(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_line_on_stdout(self):
        stage = harness.Stage(7, [PROGRAM])
        self.addCleanup(stage.stop)
        server = stage.start("--host", "127.0.0.2")
        self.assertEqual(server.line, f"07-http listening on 127.0.0.2:{server.port}")
        self.assertEqual(Browser(server).ask(get()).status, 200)
        self.assertEqual((server.more_stdout(), server.stderr()), (b"", ""))


if __name__ == "__main__":
    unittest.main()
