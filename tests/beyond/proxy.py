"""HAProxy as haproxy.cfg has it: started, asked, told, and ended."""

import csv
import io
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile

from tests.beyond import servers
from tests.beyond.servers import PATIENCE, Trouble, wait_for

CONFIGURATION = pathlib.Path(__file__).parent / "haproxy.cfg"


class Port:
    """A port that stays ours while servers come and go: bound, but nothing listens here.

    A server that sets SO_REUSEADDR, too, can listen on it (socket(7)); connect() of another program
    cannot choose it.
    """

    def __init__(self, stack, number):
        holder = stack.enter_context(socket.socket())
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", number))
        except OSError as error:
            raise Trouble(f"bind 127.0.0.1:{number}: {error.strerror}") from None
        self.number = holder.getsockname()[1]


class Proxy:
    """HAProxy, while servers behind it come and go."""

    def __init__(self, stack, port=0):
        self.program = shutil.which("haproxy", path=servers.PATH)
        if not self.program:
            raise Trouble("no HAProxy here: apt-get install haproxy")
        names = ("WEB", "WEB_ONE", "WEB_TWO", "ECHO", "ECHO_ONE", "ECHO_TWO")
        self.ports = {name: Port(stack, port if name == "WEB" else 0) for name in names}
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="restart-"))
        self.log = stack.enter_context(tempfile.TemporaryFile())
        self.process = self.start()
        stack.callback(self.end)

    def start(self):
        """In the foreground, one process."""
        environment = {name: str(port.number) for name, port in self.ports.items()}
        return servers.start(
            [self.program, "-db", "-f", CONFIGURATION], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log,
            env={**os.environ, **environment, "FOLDER": self.folder})

    def end(self):
        """The proxy goes before its servers."""
        self.process.kill()
        self.process.wait()

    def version(self):
        """That of HAProxy: "2.6.12"."""
        done = subprocess.run([self.program, "-v"], capture_output=True, encoding="utf-8",
                              check=False)
        return re.search(r"\d[\d.]*", done.stdout + "?")[0]

    def address(self, service):
        """Where clients connect to."""
        return "127.0.0.1", self.ports[service.upper()].number

    def port(self, service, name):
        """Where a server has to listen."""
        return self.ports[f"{service}_{name}".upper()].number

    def tell(self, command):
        """Say something to the running proxy; its answer."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(PATIENCE)
            try:
                admin.connect(self.folder + "/admin")
                admin.sendall(command.encode() + b"\n")
                return b"".join(iter(lambda: admin.recv(65536), b"")).decode()
            except OSError as error:
                raise Trouble(self.why_not(error)) from None

    def why_not(self, error):
        """Why it does not answer: what it has said itself, if anything."""
        said = os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")
        alerts = re.findall(r"^\[ALERT\] .*?: (.*)", said, re.M)
        return f"HAProxy: {alerts[0] if alerts else error}"

    def state(self, service, name):
        """A line of its statistics, as {column: text}."""
        table = csv.DictReader(io.StringIO(self.tell("show stat").lstrip("# ")))
        return next(line for line in table if (line["pxname"], line["svname"]) == (service, name))

    def requests(self):
        """How many pages it has been asked for."""
        return int(self.state("web", "FRONTEND")["req_tot"])

    def wait_until_up(self, service, name):
        """Until it believes that a server is well."""
        wait_for(lambda: self.listens() and self.is_up(service, name),
                 f"HAProxy does not find {service} {name} well")

    def listens(self):
        """Does it answer? Trouble if it has ended."""
        if self.process.poll() is not None:
            raise Trouble(self.why_not("it has ended"))
        return os.path.exists(self.folder + "/admin")

    def is_up(self, service, name):
        """By a check that was made, not by hope."""
        state = self.state(service, name)
        return state["status"] == "UP" and state["check_status"] in ("L7OK", "L4OK")
