"""What is measured: the phases of the load generator that `make compare` and others go through."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One phase of the load generator."""

    key: str
    group: str  # scenarios of a group share a server and its connections; they only become more
    options: dict  # of build/load
    count: int  # frames of the run that counts system calls
    ms: int = 150  # of the timed part
    full: bool = False  # only with --full

    @property
    def title(self):
        """What a reader calls it."""
        o = {"connections": 1, "in-flight": 1, "size": 64, "idle": 0, "churn": 0, "bulk": 0,
             "rate": 0} | self.options
        if o["churn"]:
            return f"{o['churn']} at a time: connect, one frame of {o['size']} bytes, close"
        clients = "1 connection" if o["connections"] == 1 else f"{o['connections']:,} connections"
        title = f"{clients}, {size_name(o['size'])} frames"
        if o["in-flight"] > 1:
            title += f", {o['in-flight']} in flight on each"
        if o["idle"]:
            title += f", among {o['idle']:,} idle"
        if o["bulk"]:
            title += f", beside {o['bulk']} that sends 64 KiB frames"
        if o["rate"]:
            title += f", {o['rate']:,} a second"
        return title


def size_name(size):
    """64 -> "64 B", 65536 -> "64 KiB"."""
    return f"{size // 1024} KiB" if size >= 1024 else f"{size} B"


def wake(idle):
    """One client talks, others are silent: each frame is one wake-up."""
    return Scenario(f"wake{idle}", "idle", {"connections": 1, "idle": idle}, 300)


SCENARIOS = (
    Scenario("c1", "connections", {"connections": 1}, 1000),
    Scenario("c100", "connections", {"connections": 100}, 5000),
    Scenario("c1000", "connections", {"connections": 1000}, 10000),
    Scenario("flight", "flight", {"connections": 50, "in-flight": 64}, 32000),
    Scenario("bulk", "bulk", {"connections": 10, "size": 65536}, 500),
    wake(10), wake(100), wake(1000),
    Scenario("idle1000", "idle", {"connections": 100, "idle": 1000}, 5000),
    wake(10000),
    Scenario("idle10000", "idle", {"connections": 100, "idle": 10000}, 5000),
    Scenario("churn", "churn", {"churn": 10}, 500),
    Scenario("rate", "rate", {"connections": 100, "rate": 10000}, 2000, ms=1000, full=True),
    Scenario("alone", "alone", {"rate": 1000}, 300, ms=1000, full=True),
    Scenario("beside", "beside", {"rate": 1000, "bulk": 1}, 300, ms=1000, full=True),
)
WAKES = tuple(s.key for s in SCENARIOS if s.key.startswith("wake"))

# Frames of these sizes, so many in flight, so many in all, are sent before anything is measured.
BYTE_CHECK = ((0, 1, 20), (1, 4, 40), (7, 64, 300), (64, 64, 1000), (4096, 16, 300),
              (65528, 2, 100), (65536, 2, 100))


def smaller(scenario):
    """The same with fewer connections and in less time: for a quick look whether it works."""
    options = dict(scenario.options)
    for name, most in (("connections", 30), ("idle", 60), ("in-flight", 8)):
        if name in options:
            options[name] = min(options[name], most)
    return dataclasses.replace(scenario, options=options, ms=30, count=60)
