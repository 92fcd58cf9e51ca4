"""A client: it sends, receives and waits, and knows when waiting longer is pointless."""

import errno
import os
import select
import socket
import struct

from tests.harness.course import KIB, MIB
from tests.harness.messages import counted, difference, frame, show
from tests.harness.verdict import Fail, Gone, NotTried
from tests.harness.waiting import FAILSAFE, Deadline, Stillness
from tests.outside import kernel

IN_QUEUE = "accept(2): this client is in the queue yet. Who calls accept() for it, and when?"
WHO_CLOSES = "close(2): who closes this one? A number closed twice may be another client's by then"
WHOSE = ("which bytes are these? Another client's: two use one buffer. Its own: an offset that has "
         "not moved, or a part that is sent twice, or never")
RESET = "close(2): it resets the connection if input is unread, or with SO_LINGER and 0: socket(7)"
END = "end of file"  # what is waited for
NOT_CLOSED = "close(2): the server has a descriptor of it yet. After fork(), two processes have one"
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: connect() chooses the port, knowing the other end


class Client:
    """One connection to a server. The socket is non-blocking; all waiting is in wait().

    rcvbuf and sndbuf fix the kernel's buffers (SO_RCVBUF before connect, so that the window never
    grows beyond it). source is a loopback address to come from: each has 28,000 ports of its own.
    """

    def __init__(self, server, rcvbuf=None, sndbuf=None, source=None):
        self.server = server
        self.sock = socket.socket(server.family(), socket.SOCK_STREAM)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if sndbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        if source and server.family() == socket.AF_INET:
            self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            self.sock.bind((source, 0))
        self.lost = ""  # the server had closed it when connect() returned
        self.sock.setblocking(False)
        self._connect()
        self.name, self.server_name = self.sock.getsockname(), (server.host, server.port)
        self.sent = self.received = 0  # bytes, in all

    def _connect(self):
        """Wait until it is connected; Fail if it cannot be."""
        code = self.sock.connect_ex((self.server.host, self.server.port))
        if code == errno.EINPROGRESS:
            code = self._connected()
        if code == errno.EADDRNOTAVAIL:
            raise NotTried("this machine has no port left for another client: sysctl "
                           "net.ipv4.ip_local_port_range")
        if code == errno.ECONNRESET:
            self.lost = os.strerror(code)
        elif code:
            raise Fail(f"connect: {os.strerror(code)}; {self.server.describe()}",
                       expected="a connection: the line says that it listens")

    def _connected(self):
        """Wait for the end of connect(). 0, or an error."""
        poll, full = select.poll(), 0
        poll.register(self.sock, select.POLLOUT)
        deadline = None  # it looks at each thread of the server, of which there may be thousands
        while not poll.poll(200):
            deadline = deadline or Deadline(FAILSAFE, *self.server.pids)
            full = full + 1 if self.server.accepts_nobody() else 0
            if full == 5:
                raise self.server.queue_is_full()
            if deadline.passed():
                return errno.ETIMEDOUT
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def fileno(self):
        """So that select() and friends take a Client."""
        return self.sock.fileno()

    # The other end, in the kernel

    def far_end(self):
        """The server's socket of this connection: kernel.Sock, or None when it is closed."""
        return kernel.find_socket(self.server_name, self.name)

    def near_end(self):
        """Our own socket as the kernel sees it."""
        return kernel.find_socket(self.name, self.server_name)

    def packet(self):
        """The most bytes that the kernel puts into one packet for it: 64 KiB on most loopbacks."""
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

    def unread(self):
        """Bytes that have reached the server's kernel and that it has not read."""
        far = self.far_end()
        return far.unread if far else 0

    def accepted(self):
        """Has the server called accept() for it?"""
        far = self.far_end()
        return bool(far and far.inode)

    def server_fd(self):
        """The number of this connection's descriptor in the server; None if it has none."""
        far = self.far_end()
        if not far or not far.inode:
            return None
        found = self.server.fd_of(far.inode)
        return found and found[1]

    # Sending

    def try_send(self, data):
        """Send what fits at once. Returns how many bytes; raises Gone."""
        if self.lost:
            raise Gone(self.lost)
        try:
            count = self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Gone(error.strerror) from None
        self.sent += count
        return count

    def send(self, data):
        """Send all, waiting while the server does not read."""
        view = memoryview(data)
        while view:
            try:
                count = self.try_send(view)
            except Gone as gone:
                self.server.come_to_rest()
                raise Fail(f"{gone.how} after {counted(len(data) - len(view), 'byte')}; "
                           f"{self.server.describe()}", sent=show(data),
                           expected="the server reads all of it") from None
            view = view[count:]
            if view and not count:
                self.wait(reading=False, writing=True, what="the server reads on", sent=data)

    def half_close(self):
        """Finish sending (FIN), and go on reading. Raises Gone."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise Gone(error.strerror) from None

    # Receiving

    def try_receive(self, limit=256 * KIB):
        """What has come, b'' if nothing has; raises Gone at the end."""
        if self.lost:
            raise Gone(self.lost)
        try:
            data = self.sock.recv(limit)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise Gone(error.strerror) from None
        if not data:
            raise Gone("end of file")
        self.received += len(data)
        return data

    def readable(self):
        """Is there something to receive, or an end?"""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def expect(self, expected, sent=None):
        """Receive exactly these bytes; fail at the first one that differs."""
        sent = expected if sent is None else sent
        got = bytearray()
        while len(got) < len(expected):
            try:
                data = self.try_receive(min(len(expected) - len(got), MIB))
            except Gone as gone:
                self.server.come_to_rest()
                raise Fail(f"{gone.how}: {difference(expected, bytes(got))}; "
                           f"{self.server.describe()}", expected=show(expected), look=WHO_CLOSES,
                           sent=show(sent)) from None
            if data != expected[len(got):len(got) + len(data)]:
                seen = bytes(got) + data
                raise Fail(difference(expected, seen), expected=show(expected), sent=show(sent),
                           look=WHOSE)
            got += data
            if not data:
                self.wait(what=show(expected), sent=sent,
                          so_far=f"{len(got):,} of {counted(len(expected), 'byte')} came; ")

    def exchange(self, data):
        """Send these bytes and receive them, reading while the server takes no more of them."""
        at, got, view = 0, 0, memoryview(data)
        while got < len(data):
            count = self.try_send(view[at:]) if at < len(data) else 0
            at += count
            piece = self.try_receive(len(data) - got)
            if piece != data[got:got + len(piece)]:
                raise Fail(difference(data[got:got + len(piece)], piece, got), sent=show(data),
                           expected=show(data), look=WHOSE)
            got += len(piece)
            if not count and not piece:
                self.wait(writing=at < len(data), what=show(data), sent=data,
                          so_far=f"{got:,} of {counted(len(data), 'byte')} came; ")

    def expect_end(self, sent=""):
        """The server closes in an orderly way, without a byte more."""
        while True:
            try:
                data = self.try_receive()
            except Gone as gone:
                if gone.how != "end of file":
                    raise Fail(gone.how, expected="end of file", sent=show(sent),
                               look=RESET) from None
                return
            if data:
                raise Fail(f"{show(data)} too many", sent=show(sent),
                           expected="nothing more, then end of file")
            self.wait(what=END, sent=sent)

    def expect_nothing_more(self, sent=""):
        """When the server has come to rest, nothing is behind the answer, and no end either."""
        self.server.come_to_rest()
        if end := self.require_no_surplus(sent):
            raise Fail(f"all bytes are right, and then the connection ends ({end})"
                       f"{self.server.said()}", sent=show(sent),
                       expected="it lasts until the client has finished sending",
                       look="recv(2): 0 is the end of input. Neither one answer nor EAGAIN is")

    def require_no_surplus(self, sent=""):
        """Fail if more has come back than was sent. Returns how the connection ended, or ''."""
        end = ""
        try:
            while self.received <= self.sent and self.try_receive():
                pass
        except Gone as gone:
            end = gone.how
        if self.received > self.sent:
            raise Fail(f"all bytes are right, and then {self.received - self.sent:,} too many",
                       sent=show(sent), expected="what was sent, and not a byte more")
        return end

    def roundtrip(self, payload=b"hello"):
        """Send one frame and receive it."""
        self.send(frame(payload))
        self.expect(frame(payload))

    def wait(self, reading=True, writing=False, what="", sent="", so_far=""):
        """Wait until the socket is ready. Fails as soon as it is certain that it never will be."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN * reading | select.POLLOUT * writing)
        if poll.poll(200):  # what follows looks at each thread, of which there may be thousands
            return
        deadline, still = Deadline(FAILSAFE, *self.server.processes()), Stillness([])
        spin_ms = self.server.cpu_ms() + self.server.spin_ms
        while not poll.poll(200):
            if self.server.exited() and not poll.poll(0):
                break
            spins, near = self.server.cpu_ms() > spin_ms, self.near_end()
            still.pids = self.server.processes()  # perhaps it has started one for this client
            over = still.lasts(near.unsent if near else 0) or spins or deadline.passed()
            if over and not poll.poll(0):  # nothing came while we looked
                unread, (look, hint) = self.unread(), self._why_stuck(spins, what)
                others = "" if self.server_fd() else self.server.others_do()
                raise Fail(f"{so_far}nothing more comes: {self.server.describe()}{others}"
                           f"{', and goes in circles' if spins else ''}, "
                           f"{counted(unread, 'byte')} of this client unread"
                           f"{self.server.said() if spins else ''}",
                           expected=what, sent=show(sent), look=look, hint=hint)

    def _why_stuck(self, spins, what):
        """(what to look at, what to write) when `what` does not come, or it goes in circles."""
        if spins:
            return self.server.why_stuck(True)
        if what == END and self.server_fd():
            return NOT_CLOSED, ""
        if self.unread() and not self.accepted():
            return IN_QUEUE, ""
        # Where another process serves it, those who listen may sleep as they like.
        return self.server.why_stuck(False, self.server_fd()) \
            if self.unread() and self.server_fd() else ("", "")

    # Leaving

    def close(self):
        """Leave: FIN, or RST if something is unread."""
        self.sock.close()

    def reset(self):
        """Leave with RST, and nothing in TIME_WAIT."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
