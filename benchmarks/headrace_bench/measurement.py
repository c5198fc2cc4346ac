"""Measuring one cell once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_bench import usage
from headrace_bench.cells import Effort
from headrace_bench.generators import Generator
from headrace_bench.load import Load, LoadFailedError

_PROBE_S = 0.1
_GROWTH_MAX = 16


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measurement.

    Attributes:
        per_s: Answered requests a second.
        calls_per_message: Answers in one message of the server.
        cpu_us: Processor time for each request by name of the process; those of one name are summed.
        rss_peak_mib: Largest resident size by name of the process, likewise.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    requests: int
    calls_per_message: float
    cpu_us: Mapping[str, float]
    rss_peak_mib: Mapping[str, float]


def warmed_up(generator: Generator, *, concurrency: int, effort: Effort) -> int:
    """Load for a while.

    Returns:
        How many requests a measurement takes to last about as long as it should.

    Raises:
        LoadFailedError: requests failed.
    """
    count, spent_s = 2 * concurrency, 0.0
    while True:
        load = _checked(generator.run(count))
        spent_s += load.wall_s
        if spent_s >= effort.warm_up_s and load.wall_s >= min(_PROBE_S, effort.warm_up_s):
            return max(2 * concurrency, round(load.per_s * effort.measure_s))
        missing_s = max(_PROBE_S, effort.warm_up_s - spent_s)
        count = max(count, min(_GROWTH_MAX * count, round(load.per_s * missing_s)))


def measure(generator: Generator, processes: Mapping[str, tuple[int, ...]], count: int) -> Sample:
    """Make so many requests and see what the processes use meanwhile.

    Raises:
        LoadFailedError: requests failed.
    """
    for pids in processes.values():
        usage.forget_peak(pids)
    before_s = {name: usage.cpu_s(pids) for name, pids in processes.items()}
    load = _checked(generator.run(count))
    used_s = {name: usage.cpu_s(pids) - before_s[name] for name, pids in processes.items()}
    return Sample(
        per_s=load.per_s,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        requests=load.done,
        calls_per_message=load.calls_per_message,
        cpu_us={name: 1e6 * spent_s / load.done for name, spent_s in {**used_s, "client": load.cpu_s}.items()},
        rss_peak_mib={name: usage.rss_peak_mib(pids) for name, pids in processes.items()},
    )


def _checked(load: Load) -> Load:
    if load.failed or not load.done:
        raise LoadFailedError(f"{load.done} requests were answered, and these failed: {load.failed}")
    return load
