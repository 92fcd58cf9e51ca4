#!/usr/bin/env python3
"""07-http beside nginx, under the same load: `make http`.

    python3 -m tests.bench.nginx                      about two minutes
    python3 -m tests.bench.nginx --slices 50 --scenarios c100,close

Both serve the same bytes, which is checked first. The load comes from wrk, which nobody here wrote
either. Both servers are up all the time and pinned to one core, wrk to another; slices of a second
take turns, so that what drifts between minutes is in both. CPU is that of the server process,
system calls and all.

nginx runs as people configure it: tcp_nodelay, keep-alive without an end, no access log. The page
comes from memory (`return`), the larger body from a file that stays open (`open_file_cache`), with
sendfile. It is one process, which does what a worker does. It does more than 07-http for each
request: variables, phases, filters, its log. MEASURING.md says how to read such numbers.
"""

import argparse
import contextlib
import dataclasses
import http.client
import os
import pathlib
import re
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from tests import harness
from tests.bench import load
from tests.bench import rounds
from tests.bench import tables
from tests.harness import argument, runner
from tests.outside import kernel

NAMES = ("07-http", "nginx")
PAGE, BODY = "/", "/bytes/65536"
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where nginx is, also for those not root
START_SECONDS = 10  # for nginx to listen, and for an answer
SECONDS = 1  # of a slice; wrk counts in whole ones
BUSY = 0.9  # of a core; below it the server was waiting for wrk

CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
    access_log off;
    tcp_nodelay on;
    sendfile on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    default_type text/plain;
    client_body_temp_path tmp;
    proxy_temp_path tmp;
    fastcgi_temp_path tmp;
    uwsgi_temp_path tmp;
    scgi_temp_path tmp;
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location = / { default_type text/html; return 200 '%(page)s'; }
        location /bytes/ { root .; open_file_cache max=100; }
    }
}
"""

# Several requests at once when asked for, and one line of what was seen.
SCRIPT = """
local depth = %(depth)d
if depth > 1 then
    local requests
    init = function() requests = wrk.format():rep(depth) end
    request = function() return requests end
end
done = function(summary, latency)
    local e = summary.errors
    print("seen", summary.requests, summary.duration, latency:percentile(50),
          latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout)
end
"""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One kind of load."""

    key: str
    title: str
    connections: int
    path: str = PAGE
    depth: int = 1  # requests sent without waiting for an answer
    close: bool = False  # a connection for each request


SCENARIOS = (
    Scenario("c1", "1 connection", 1),
    Scenario("c100", "100 connections", 100),
    Scenario("c1000", "1,000 connections", 1000),
    Scenario("big", "100 connections, 64 KiB", 100, path=BODY),
    Scenario("pipeline", "100 connections, 16 in flight", 100, depth=16),
    Scenario("close", "100, one request on each", 100, close=True),
)


# ---- servers -------------------------------------------------------------------------------------


def http_server():
    """07-http, for a with statement."""
    return load.server([str(load.BUILD / NAMES[0]), "--idle-ms", "0"])


def free_port():
    """A port that is free now; who takes it meanwhile makes nginx fail, and we try another."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Nginx:
    """nginx within a `with` block, in a folder of its own, with these bytes to serve."""

    def __init__(self, page, body):
        self.page, self.body = page, body
        self.folder = self.process = self.port = None

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="nginx-")
        try:
            file = pathlib.Path(self.folder.name + BODY)
            file.parent.mkdir()
            file.write_bytes(self.body)
            for _ in range(5):
                if self.start():
                    return self
            raise harness.NoStart("nginx does not start")
        except BaseException:
            self.__exit__()
            raise

    def start(self):
        """False if it has ended instead of listening."""
        self.port = free_port()
        path = pathlib.Path(self.folder.name, "nginx.conf")
        page = re.sub(r"([\\'])", r"\\\1", self.page.decode())
        path.write_text(CONFIGURATION % {"port": self.port, "page": page}, encoding="utf-8")
        command = [shutil.which("nginx", path=PATH), "-p", self.folder.name, "-c", path,
                   "-e", "stderr"]
        self.process = subprocess.Popen(load.pinned(command, load.cpus()[0]),
                                        stdin=subprocess.DEVNULL)
        deadline = harness.Deadline(START_SECONDS, self.process.pid)
        while self.process.poll() is None and not deadline.passed():
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True
            time.sleep(0.01)
        self.end()
        return False

    def end(self):
        """End the process, if there is one."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def __exit__(self, *_):
        self.end()
        self.folder.cleanup()

    @property
    def pid(self):
        """Its process id: the only one."""
        return self.process.pid


# ---- the same bytes ------------------------------------------------------------------------------


def fetch(port, path, method="GET"):
    """Status, Content-Type, Content-Length and body of each of two requests on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    with contextlib.closing(connection):
        answers = []
        for _ in range(2):
            connection.request(method, path)
            answer = connection.getresponse()
            answers.append((answer.status, answer.getheader("Content-Type"),
                            answer.getheader("Content-Length"), answer.read()))
        return answers


def differences(ports):
    """What the servers answer differently, in words."""
    for path in (PAGE, BODY):
        for method in ("GET", "HEAD"):
            ours, theirs = (fetch(port, path, method) for port in ports)
            if ours != theirs or ours[0][0] != 200:
                yield (f"{method} {path}: {ours[0][:3]} from {NAMES[0]}, "
                       f"{theirs[0][:3]} from {NAMES[1]}")


def curl(port):
    """What curl makes of a server: statuses, connections made, and sizes of three requests."""
    url = f"http://127.0.0.1:{port}"
    common = ["curl", "-q", "-sS", "--noproxy", "*", "-o", os.devnull,
              "-w", "%{http_code} %{num_connects} %{size_download}\n"]
    command = [*common, f"{url}{PAGE}", "--next", *common[1:], f"{url}{BODY}",
               "--next", *common[1:], "-I", f"{url}{BODY}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False,
                          timeout=START_SECONDS)
    return done.stdout + done.stderr


def smoke(ports, sizes):
    """Do both do for curl what they should? What is wrong, or None."""
    if not shutil.which("curl"):
        print("not asked by curl: apt-get install curl", file=sys.stderr)
        return None
    expected = f"200 1 {sizes[0]}\n200 0 {sizes[1]}\n200 0 0\n"
    for name, port in zip(NAMES, ports):
        seen = curl(port)
        if seen != expected:
            return f"curl sees of {name}:\n{seen}and not:\n{expected}"
    return None


# ---- measuring -----------------------------------------------------------------------------------


def wrk(scenario, port, script):
    """Run wrk for one slice; what it has seen."""
    command = ["wrk", "-t", "1", "-c", str(scenario.connections), "-d", f"{SECONDS}s",
               "--timeout", "10s", "-s", script, f"http://127.0.0.1:{port}{scenario.path}"]
    if scenario.close:
        command[1:1] = ["-H", "Connection: close"]
    done = subprocess.run(load.pinned(command, load.cpus()[1]), capture_output=True,
                          encoding="utf-8", check=False)
    found = re.search(r"^seen\t(.*)", done.stdout, re.M)
    if not found:
        sys.exit(f"{shlex.join(command)}: {done.stdout}{done.stderr}")
    requests, duration, p50, p99, errors = (float(n) for n in found[1].split())
    if errors or not requests:
        sys.exit(f"{shlex.join(command)}: {requests:.0f} requests, {errors:.0f} errors")
    return {"requests": requests, "seconds": duration / 1e6, "p50_us": p50, "p99_us": p99}


def measure(server, scenario, script):
    """One slice of one server."""
    before = kernel.cpu_ns(server.pid)
    seen = wrk(scenario, server.port, script)
    cpu = (kernel.cpu_ns(server.pid) - before) / 1e9
    return seen | {"cpu_us": cpu * 1e6 / seen["requests"], "busy": cpu / seen["seconds"],
                   "rate": seen["requests"] / seen["seconds"]}


def compare(servers, scenario, slices, progress):
    """{name: [slice, ...]}: the two in turn."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8") as script:
        script.write(SCRIPT % {"depth": scenario.depth})
        script.flush()
        return rounds.in_turn(slices, NAMES,
                              lambda name: measure(servers[name], scenario, script.name),
                              progress, scenario.title)


# ---- tables --------------------------------------------------------------------------------------


def table(results, metric, title, digits):
    """A line for each scenario, 80 columns."""
    rows = []
    for scenario, samples in results.items():
        ours, theirs = ([s[metric] for s in samples[name]] for name in NAMES)
        ratio = rounds.summed_up([a / b for a, b in zip(ours, theirs)])
        rows.append((scenario.title, [
            *(f"{statistics.median(values):,.{digits}f}" for values in (ours, theirs)),
            f"{ratio['median']:.2f}", f"{ratio['spread'] / 2:.2f}"]))
    columns = [*((name, 13) for name in NAMES), ("ratio", 12), ("+-", 8)]
    return tables.table(title, ("", 32), columns, rows)


def waited(results):
    """Which scenarios the servers had to wait in: their rates are those of the load."""
    titles = [scenario.title for scenario, samples in results.items()
              if any(statistics.median(s["busy"] for s in samples[name]) < BUSY for name in NAMES)]
    if not titles:
        return ""
    return (f"\nA server used less than {BUSY:.0%} of its core, so the rate is that of wrk, in\n"
            + "\n".join(f"  {title}" for title in titles))


def parse_arguments(arguments):
    """The options of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=load.BUILD)
    parser.add_argument("--slices", type=int, default=10, help="of each server and scenario")
    keys = [s.key for s in SCENARIOS]
    parser.add_argument("--scenarios", type=argument.some_of(keys), default=keys,
                        help="of: " + " ".join(keys))
    parser.add_argument("--json", type=pathlib.Path, help="default: http.json in --build")
    options = parser.parse_args(arguments)
    if options.slices < 1:
        parser.error("--slices: at least one")
    options.chosen = [s for s in SCENARIOS if s.key in options.scenarios]
    return options


def version():
    """That of nginx: "1.22.1"."""
    done = subprocess.run([shutil.which("nginx", path=PATH), "-v"], capture_output=True,
                          encoding="utf-8", check=False)
    return done.stderr.strip().rpartition("/")[2]


def run(options, arguments):
    """Check, measure, print. Exit status 0 if all was measured."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(http_server())
        page, body = (fetch(ours.port, path)[0][3] for path in (PAGE, BODY))
        servers = dict(zip(NAMES, (ours, stack.enter_context(Nginx(page, body)))))
        ports = [server.port for server in servers.values()]
        wrong = "\n".join(differences(ports)) or smoke(ports, (len(page), len(body)))
        if wrong:
            print(wrong, file=sys.stderr)
            return 1
        steps = len(options.chosen) * options.slices * len(NAMES)
        with runner.progress(steps, loud=True) as progress:
            results = {scenario: compare(servers, scenario, options.slices, progress)
                       for scenario in options.chosen}
    slices = f"medians of {options.slices} slices"
    ratio = f"{slices}; ratio 07-http / nginx"
    print(table(results, "cpu_us", f"Server CPU per request, in us: {ratio}", 2), end="\n\n")
    print(table(results, "rate", f"Requests per second: {ratio}", 0))
    print(waited(results))
    print(f"\nnginx {version()}, one process; pages of {len(page)} bytes")
    load.keep(options.json or load.BUILD / "http.json", "tests.bench.nginx", arguments, {
        "nginx": version(), "slices": options.slices,
        "scenarios": [dataclasses.asdict(s) | {"results": results[s]} for s in results]})
    return 0


def main(arguments):
    """2 if something is missing that is needed."""
    options = parse_arguments(arguments)
    load.use_build(options.build)
    missing = [package for program, package in (("wrk", "wrk"), ("nginx", "nginx-light"))
               if not shutil.which(program, path=PATH)]
    if missing:
        print(f"nothing measured: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    if load.is_missing(NAMES[0]):
        return 2
    return run(options, arguments)


if __name__ == "__main__":
    runner.main(lambda: main(sys.argv[1:]))
