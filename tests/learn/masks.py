#!/usr/bin/env python3
"""What epoll reports of a socket, as its peer finishes, closes or resets: chapter 7, LIFE.md."""

import argparse
import array
import fcntl
import select
import socket
import struct
import sys
import termios

NAMES = ("IN", "OUT", "RDHUP", "ERR", "HUP")
MASK = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP
FAILSAFE = 10  # seconds: on one machine, these things have happened when the call returns


def pair():
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        return listener.accept()[0], peer


def reported(ours, until):
    """The names of the events of our end, once `until` is among them, and its unread bytes."""
    with select.epoll() as epoll:
        epoll.register(ours, MASK)
        names = []
        while until not in names:
            [(_, events)] = epoll.poll(FAILSAFE)
            names = [name for name in NAMES if events & getattr(select, f"EPOLL{name}")]
    unread = array.array("i", [0])
    fcntl.ioctl(ours, termios.FIONREAD, unread)
    return " ".join(names), unread[0]


def reset(peer):
    """close() with SO_LINGER and a time of 0 sends a reset: socket(7)."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"{'':42}{'epoll reports':24} unread")
    for words, act, until in (
            ("the peer is silent", lambda ours, peer: None, "OUT"),
            ("it sends 50,000 bytes", lambda ours, peer: None, "IN"),
            ("... and finishes sending", lambda ours, peer: peer.shutdown(1), "RDHUP"),
            ("... and we have finished, too",
             lambda ours, peer: (peer.shutdown(1), ours.shutdown(1)), "HUP"),
            ("it sends 50,000 bytes, and then a reset", lambda ours, peer: reset(peer), "ERR")):
        ours, peer = pair()
        with ours, peer:
            if until != "OUT":
                peer.sendall(bytes(50_000))
            act(ours, peer)
            events, unread = reported(ours, until)
            print(f"{words:42}{events:24} {unread:6,}")


if __name__ == "__main__":
    sys.exit(main())
