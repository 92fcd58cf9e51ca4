"""The probes. Each module registers its own when it is imported; load() imports them all.

A row is a fault that servers meet in production. Some rows have several probes.

    agreement    row 0: the line on stdout, and an echo
    sharing      1 to 4, 16 and 31: many clients
    streams      5, 6, 8 and 17: bytes, however they are cut
    stuck        6 and 8: output that could not be sent yet
    slow         7 and 15: clients that do not read, and a server with nothing to do
    leaving      9, 18 and 19: resets, restarts, and what is left behind
    syscalls     10, 11, 13 and 14: calls that are interrupted, fail, or do a part
    exhausted    12: no descriptor is free
    frames       20: what is no frame
    deadlines    27 and 28: clients that never finish, and SIGTERM
    soak         32: clients at random
    footing      33 to 36: what the server itself stands on
    flood        a client that sends more than it reads, for several of these
"""

import importlib
import pkgutil

ROWS = {
    0: "starts, says where, echoes",
    1: "first client idles, second talks",
    2: "100 clients in one burst",
    3: "1,500 clients at once",
    4: "cost of 10,000 idle clients",
    5: "bytes split and merged",
    6: "half-close, then the rest",
    7: "sends without reading",
    8: "stops reading, reads on: 64 MB",
    9: "reset, and write after it",
    10: "stopped, and a storm of signals",
    11: "connections lost before accept",
    12: "no descriptor free",
    13: "kernel out of memory or room",
    14: "short reads and short writes",
    15: "wakes up only when needed",
    16: "4 MB against one small frame",
    17: "urgent, empty and dribbled",
    18: "restart on the same port",
    19: "descriptors leaked or inherited",
    20: "wrong magic, wild lengths",
    21: "messages left in the input",
    22: "stale event, number reused",
    23: "callbacks that close others",
    24: "extra descriptor misbehaves",
    25: "tick under load",
    26: "a handler throws",
    27: "slow loris, vanished peer",
    28: "SIGTERM with output pending",
    29: "stop and post from threads",
    30: "outgoing connection fails",
    31: "10,000 clients, a tenth talking",
    32: "soak, from a seed",
    33: "the listener fails",
    34: "the wait fails",
    35: "its own streams fail",
    36: "no memory for a client",
}

# Rows that need a look inside the process: GoogleTest shows them, on stage 07 only.
UNIT_ROWS = {21, 22, 23, 24, 25, 26, 29, 30}


def load():
    """Import every module of this package."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
