"""The seven stages, where things are, the compiler, and the sanitizers that programs may have."""

import os
import shlex

STAGES = {1: "01-blocking", 2: "02-select", 3: "03-poll-lt", 4: "04-epoll-lt", 5: "05-epoll-et",
          6: "06-write-buffering", 7: "07-evloop"}
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))  # `make B=...` says it to all
CXX = shlex.split(os.environ.get("CXX", "g++"))  # a command with its arguments: "ccache g++"
SAN = os.environ.get("SAN", "")  # the sanitizers in our programs, as in `make test SAN=thread`
SLOWER = 5 if SAN else 1  # times the time that things may take
KIB, MIB = 1024, 1024 * 1024
