"""What a load generator reports, and how one that is a process of its own is told what to do.

The process reads counts from its standard input, one a line, makes that many calls and writes a line of JSON for each.
It ends with its input.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the ordered values don't exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class LoadFailedError(Exception):
    """Calls failed, or the generator did: what was measured is worth nothing."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What became of a number of calls.

    Attributes:
        done: Calls that got the answer they should.
        failed: How many of the others ended how.
        wall_s: From the first call to the last answer.
        cpu_s: Processor time of the generator in that time.
        p50_ms: Median latency of the answered calls; `p99_ms` likewise.
        calls_per_message: Answers in one message, where several may be packed.
    """

    done: int
    failed: dict[str, int] = field(default_factory=dict[str, int])
    wall_s: float
    cpu_s: float
    p50_ms: float
    p99_ms: float
    calls_per_message: float = 1.0

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.done / self.wall_s

    @classmethod
    def of(
        cls, *, latencies_s: Sequence[float], failed: Counter[str], wall_s: float, cpu_s: float, messages: int = 0
    ) -> Load:
        """The summary of calls whose latencies are known one by one."""
        ordered = sorted(latencies_s) or [math.nan]
        return cls(
            done=len(latencies_s),
            failed=dict(failed),
            wall_s=wall_s,
            cpu_s=cpu_s,
            p50_ms=1_000 * quantile(ordered, 0.5),
            p99_ms=1_000 * quantile(ordered, 0.99),
            calls_per_message=len(latencies_s) / messages if messages else 1.0,
        )


def own_cpu_s() -> float:
    """Processor time of this process so far."""
    times = os.times()
    return times.user + times.system


def next_count() -> int | None:
    """The next count that this process is asked for; None at the end."""
    line = sys.stdin.readline()
    return int(line) if line else None


def say(load: Load) -> None:
    """Report to the process that asked."""
    sys.stdout.write(json.dumps(asdict(load)) + "\n")
    sys.stdout.flush()


async def answer_counts(run: Callable[[int], Awaitable[Load]]) -> None:
    """Serve counts until the input ends. Nothing else happens on the event loop while it waits for one."""
    while (count := next_count()) is not None:
        say(await run(count))
