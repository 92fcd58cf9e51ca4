#!/usr/bin/env python3
"""A starter for a stage that you write yourself: `make start-N` puts it into build/mine/N.

It compiles. It is the stage before, under the new stage's name, with a "To do" at each place that
has to change; for stage 1 it is nearly empty, and for stage 7 it is a handler on the library.
"""

import argparse
import pathlib
import sys

from tests import harness
from tests.harness import runner

ROOT = pathlib.Path(harness.ROOT)
TO_DO = {  # stage: how each place begins in the stage before, and what to do there
    2: [("struct Client", "Make a struct Server of this program, beside Client. It has the "
         "listener, the set of descriptors that are watched (fd_set), the highest of them, and the "
         "clients by descriptor (std::unordered_map)."),
        ("bool echo", "This becomes a member of Server. Must anything else change in it?"),
        ("int main", "Instead of sleeping in accept4() or in recv(), sleep in select(), for all. "
         "Then ask FD_ISSET() for each: the listener has a client for you, a client has bytes. "
         "select() overwrites the set that you give it. When a client leaves, its bit goes, too "
         "(FD_CLR). Refuse descriptors from FD_SETSIZE on, and say() so. What if select() returns "
         "-1?")],
    3: [("#include <sys/select.h>", "poll() is in <poll.h>."),
        ("struct Server", "Watch an array of pollfd in the place of the set."),
        ("bool Server::watch", "Add an entry. Any number fits."),
        ("std::vector<int> Server::wait_ready", "poll() leaves your question as it is, and writes "
         "its answer into revents. Which bits of it mean that recv() has something to tell?"),
        ("void Server::remove", "Take the entry out of the array. What does poll() say of a number "
         "that is closed?")],
    4: [("#include <poll.h>", "epoll is in <sys/epoll.h>."),
        ("struct Server", "Own an epoll descriptor in the place of the array: epoll_create1()."),
        ("bool Server::watch", "Say it once: epoll_ctl(EPOLL_CTL_ADD). What you put into `data` "
         "comes back with each event. The call can fail."),
        ("std::vector<int> Server::wait_ready", "epoll_wait() returns those that are ready and no "
         "others. What if it returns -1?"),
        ("void Server::accept_clients", "If a client cannot be watched, say so, and let it go."),
        ("void Server::remove", "How much of this is left to do when the kernel closes a socket?")],
    5: [("bool Server::watch", "Ask for EPOLLET."),
        ("void Server::accept_clients", "Several clients may be one event. Accept until EAGAIN, "
         "and make each client non-blocking (SOCK_NONBLOCK). Which errors mean \"the next one, "
         "please\"?"),
        ("bool Server::echo", "Receive until EAGAIN. send_all() of common/net.h would sleep, or "
         "fail with EAGAIN now: write your own, which gives up a client that reads too slowly."),
        ("int main", "The listener has to be non-blocking, too.")],
    6: [("struct Client", "What it has not taken yet has to wait somewhere. Has it finished "
         "sending? And what was epoll last told about it?"),
        ("bool Server::watch", "The events are not always the same now. EPOLL_CTL_MOD changes "
         "them: write a function that derives them from the state of a client, and one that tells "
         "epoll."),
        ("bool Server::send_all", "Send as much as fits, and keep the rest."),
        ("bool Server::echo", "Send, receive, send, receive, until neither is possible. Stop "
         "reading when too much waits to be sent (row 7). A client that has finished sending is "
         "still owed what you hold (row 6).")],
}
FIRST = '''// 01-blocking: an echo server, one client at a time. This one is yours.
//
// To do: what the comments say. `make check-1 SERVER=build/mine/1/server` tells how far you are.
//
// Build: g++ -std=c++20 -O2 -I. build/mine/1/server.cpp -o build/mine/1/server

#include "common/net.h"

constexpr Stage stage{"01-blocking", 9001};

// To do: receive once (recv) and send all of it back (send). send() may take only a part. False
// when the client is gone.
bool echo(Fd& client) {
    (void)client;
    return false;
}

int main(int argc, char** argv) {
    Options options = parse_options(argc, argv, stage.name, stage.port);
    // To do: you may write listen_on() yourself, too: socket, bind, listen.
    Fd listener = listen_on(options);
    announce(options);

    for (;;) {
        // To do: accept a client (accept4), and echo() until it is gone. For now this sleeps.
        pause();
    }
}
'''
LAST = '''// 07-evloop: a server on the loop. This one is yours.
//
// To do: what the comments say. `make check-7 SERVER=build/mine/7/server` tells how far you are.
//
// Build: g++ -std=c++20 -O2 -I. build/mine/7/server.cpp 07-evloop/evloop.cpp -pthread
//        and, on the same line, -o build/mine/7/server

#include "07-evloop/evloop.h"
#include "07-evloop/frame.h"
#include "common/net.h"

constexpr Stage stage{"07-evloop", 9007};

class Server : public Handler {
public:
    // To do: this echoes bytes. Take whole frames out of the input (parse_frame() in frame.h) and
    // echo each. Close a client that sends none with conn.close(), and say() "closed".
    void on_read(Conn& conn) override {
        conn.write(conn.input());
        conn.consume(conn.input().size());
    }

    // To do: SIGTERM is to end the server in good order. A signalfd(2) that you give to add_fd() is
    // ready when it comes: on_fd() then calls stop().
};

// To do: close a client that never sends a whole frame. Limits has the deadline, and the probes
// give a short one: the three numbers belong into the Limits of the loop.
int main(int argc, char** argv) {
    int idle = 60'000, tick = 1'000, drain = 5'000;  // ms
    Options options = parse_options(argc, argv, stage.name, stage.port,
                                    {{"idle-ms", &idle, 0, 86'400'000, "Limits::idle"},
                                     {"tick-ms", &tick, 1, 3'600'000, "Limits::tick"},
                                     {"drain-ms", &drain, 1, 3'600'000, "Limits::drain"}});
    Server server;
    Loop loop(server);
    check(loop.listen(listen_on(options, SOCK_NONBLOCK)), "listen");
    announce(options);
    loop.run();
}
'''


def starter(number):
    """The text of a stage's starter."""
    if number in (1, 7):
        return FIRST if number == 1 else LAST
    before, name = harness.STAGES[number - 1], harness.STAGES[number]
    text = (ROOT / before / "server.cpp").read_text("utf-8")
    whole = (ROOT / name / "server.cpp").read_text("utf-8")
    title = whole.partition("\n")[0].partition(": ")[2]
    head, _, code = text.partition("\n\n")
    assert head.startswith("//")
    code = code.replace(f'{{"{before}", {9000 + number - 1}}}', f'{{"{name}", {9000 + number}}}')
    for begins, what in TO_DO[number]:
        code = with_note(code, begins, what)
    return (f"// {name}: {title}\n//\n// This one is yours, and still stage {number - 1}. To do: "
            f"what the comments say. How far are you?\n//     make check-{number} "
            f"SERVER=build/mine/{number}/server\n//\n// Build: {build_line(number)}\n\n{code}")


def with_note(code, begins, what):
    """The code with a comment above the place that begins so, and above its own comment."""
    lines = code.split("\n")
    found = [at for at, line in enumerate(lines) if line.startswith(begins)]
    at = next((at for at in found if not lines[at].endswith(";")), found[0] if found else None)
    if at is None:
        raise ValueError(f"the stage before has no line that begins with {begins!r}")
    while at > 0 and lines[at - 1].startswith("//"):
        at -= 1
    gap = ["//"] if lines[at].startswith("//") else []
    return "\n".join(lines[:at] + comment(f"To do: {what}") + gap + lines[at:])


def comment(text, width=100):
    """A text as lines of a comment."""
    lines, line = [], "//"
    for word in text.split():
        if len(line) + 1 + len(word) > width:
            lines.append(line)
            line = "//"
        line += " " + word
    return [*lines, line]


def build_line(number):
    """How to compile it, from the top of the repository."""
    library = " 07-evloop/evloop.cpp -pthread" if number == 7 else ""
    folder = f"build/mine/{number}"
    return f"g++ -std=c++20 -O2 -I. {folder}/server.cpp{library} -o {folder}/server"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", type=int, choices=list(harness.STAGES))
    arguments.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    options = arguments.parse_args()
    path = options.build / "mine" / str(options.stage) / "server.cpp"
    if path.exists():
        print(f"{path} is there already, and yours. To begin anew: rm {path}", file=sys.stderr)
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(starter(options.stage), "utf-8")
    print(f"""{path} is yours. It compiles, and its comments say what to do.

Find      grep -n "To do" {path}
Build     {build_line(options.stage)}
Check     make check-{options.stage} SERVER={path.parent}/server
Stuck?    make check-{options.stage} SERVER={path.parent}/server HINT=1 (or the row that fails)""")
    return 0


if __name__ == "__main__":
    runner.main(main)
