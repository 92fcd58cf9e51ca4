"""What `make compare` has found: tables for the terminal, and everything for JSON."""

from tests.bench import load
from tests.bench.rounds import change
from tests.bench.scenarios import WAKES
from tests.bench.tables import table


def scenario_table(comparison, scenario):
    """One scenario: a line per stage, 80 columns."""
    columns = [("messages/s", 10), ("CPU us", 8), ("+-", 7), ("change", 7), ("p50 us", 8),
               ("p99", 8), ("p99.9", 8), ("calls", 6)]
    rows, before = [], None
    for stage in comparison.stages:
        r = comparison.result(stage, scenario.key)
        if "failed" in r:
            rows.append((stage, ["-"], f"  {r['failed']}"))
            continue
        changed = change(before["cpu_us"]["rounds"], r["cpu_us"]["rounds"]) if before else ""
        calls = "-" if r["calls"] is None else f"{r['calls']:.{2 if r['calls'] < 100 else 1}f}"
        rows.append((stage, [
            f"{r['throughput']['median']:,.0f}", f"{r['cpu_us']['median']:.2f}",
            f"{r['cpu_us']['spread']:.2f}", changed,
            *(f"{r[name]['median']:,.0f}" for name in ("p50_us", "p99_us", "p999_us")), calls]))
        before = r
    return table(scenario.title, ("", 18), columns, rows)


def wake_table(comparison):
    """The curve of the course: what a wake-up costs among how many idle clients."""
    keys = [s for s in comparison.scenarios if s.key in WAKES]
    if not keys:
        return ""
    rows = []
    for stage in comparison.stages:
        results = [comparison.result(stage, s.key) for s in keys]
        good = next((at for at, r in enumerate(results) if "failed" in r), len(results))
        why = f"   {results[good]['failed']}" if good < len(results) else ""  # more is no better
        rows.append((stage, [f"{r['cpu_us']['median']:,.2f}" for r in results[:good]], why))
    return table("Server CPU per wake-up, in us: one client talks, the others are idle",
                 ("idle clients", 18), [(f"{s.options['idle']:,}", 14) for s in keys], rows)


def idle_memory(comparison):
    """Bytes of user memory per idle connection, from the ends of the curve."""
    keys = [s for s in comparison.scenarios if s.key in WAKES]
    result = {}
    for stage in comparison.stages:
        points = [(s.options["idle"], comparison.result(stage, s.key)["rss_mib"]["median"])
                  for s in keys if "failed" not in comparison.result(stage, s.key)]
        if len(points) > 1:
            (few, low), (many, high) = points[0], points[-1]
            result[stage] = (high - low) * (1 << 20) / (many - few)
    return result


def extra_tables(extra):
    """What --full has found besides."""
    rows = []
    for stage, r in extra["slow_reader"].items():
        fast = r["fast"]
        cells = [f"{fast['p50']:,.0f}", f"{fast['p999']:,.0f}"] if isinstance(fast, dict) else []
        rows.append((stage, cells, f"   {r['slow']}" if cells else f"{fast:>24}   {r['slow']}"))
    yield table("A slow reader beside a fast client (500 frames a second)", ("", 18),
                [("fast: p50 us", 14), ("p99.9", 10), ("   the slow one", 0)], rows)
    yield "\n".join(["Clients that send and never read", *(
        f"{stage:18}{r['bytes'] / 1024:>8,.0f} KiB each, {r['dropped']} of {r['clients']}"
        f" dropped, others: {r['others']}" for stage, r in extra["stalled"].items())])
    yield "\n".join(["Calls per burst of 64 KiB", *(
        f"{stage:18}{sum(calls.values()):>6.2f}  "
        + (", ".join(f"{name} {n:.2f}" for name, n in calls.items()) or "make build/shim.so")
        for stage, calls in extra["burst"].items())])


def print_tables(comparison):
    """All of it, in the terminal."""
    print("CPU us, calls: of the server, per message. +-: spread of the rounds.\n"
          "change: of the CPU against the stage above; = is less than what varies.\n")
    for scenario in comparison.scenarios:
        if scenario.key not in WAKES:
            print(scenario_table(comparison, scenario), end="\n\n")
    print(wake_table(comparison))
    memory = idle_memory(comparison)
    if memory:
        print("Bytes of memory per idle connection:\n  "
              + ", ".join(f"{stage[:2]} {value:,.0f}" for stage, value in memory.items()))
    if not load.has_shim():
        print("\nSystem calls were not counted: make build/shim.so")
    busy = [(s.title, stage) for s in comparison.scenarios for stage in comparison.stages
            if comparison.result(stage, s.key).get("load_busy", {}).get("median", 0) > 0.95]
    if busy:
        print(f"\nIn {len(busy)} cells the load generator's core was busy for over 95 % of the"
              " time:\nthere the throughput is the generator's; compare CPU per message.")
    for text in extra_tables(comparison.extra) if comparison.extra else ():
        print(f"\n{text}")


def numbers(comparison):
    """Everything, for tests/bench/chart.py and for a closer look."""
    return {
        "rounds": comparison.rounds,
        "stages": list(comparison.stages),
        "scenarios": [{"key": s.key, "title": s.title, "options": s.options,
                       "results": {stage: comparison.result(stage, s.key)
                                   for stage in comparison.stages}}
                      for s in comparison.scenarios],
        "idle_bytes": idle_memory(comparison),
        "extra": comparison.extra,
    }
