"""Rounds: a sample of each, then the next one of each, so that what drifts is in all of them."""

import statistics


def in_turn(count, names, sample, progress, title):
    """{name: its samples}, `count` of each, now from the first to the last and now back.

    sample(name) is None when there will be no more of it.
    """
    samples = {name: [] for name in names}
    left = list(names)
    for number in range(1, count + 1):
        for name in left[::1 if number % 2 else -1]:
            progress(f"{title}, {number} of {count}: {name}")
            one = sample(name)
            if one is None:
                left.remove(name)
            else:
                samples[name].append(one)
    return samples


METRICS = {
    "throughput": lambda p: p["messages"] / p["seconds"],  # per second
    "cpu_us": lambda p: p["server_cpu"] * 1e6 / max(p["messages"], 1),  # per message
    "p50_us": lambda p: p["latency_us"]["p50"],
    "p99_us": lambda p: p["latency_us"]["p99"],
    "p999_us": lambda p: p["latency_us"]["p999"],
    "rss_mib": lambda p: p["rss_kib"] / 1024,
    "server_busy": lambda p: p["server_cpu"] / p["seconds"],  # 1: its core had no pause
    "load_busy": lambda p: p["load_cpu"] / p["seconds"],
    "switches": lambda p: p["switches"] / max(p["messages"], 1),  # per message
}


def measures(phase):
    """All metrics of a phase."""
    return {name: of(phase) for name, of in METRICS.items()}


def per_message(phase):
    """Calls by name."""
    return {name: n / phase["messages"] for name, n in phase["calls"].items() if n}


def spread(values):
    """How far values lie apart: the middle half of many, the range of a few."""
    if len(values) < 5:
        return max(values) - min(values)
    low, _, high = statistics.quantiles(values, n=4)
    return high - low


def summed_up(values):
    """Their median, how far they lie apart, and they themselves."""
    return {"median": statistics.median(values), "spread": spread(values), "rounds": values}


def change(before, after):
    """How `after` differs from `before`: "=" if by less than that varies between the rounds."""
    ratios = [b / a for a, b in zip(before, after) if a]
    if not ratios:
        return ""
    ratio = statistics.median(ratios)
    if len(ratios) < 2:
        return ""
    if abs(ratio - 1) <= max(spread(ratios), 0.005):
        return "="
    return f"x{ratio:.1f}" if ratio >= 2 else f"{(ratio - 1) * 100:+.0f} %"
