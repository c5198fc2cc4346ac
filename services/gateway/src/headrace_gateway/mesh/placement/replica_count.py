"""How many replicas a model that is used should have."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_gateway.mesh.placement.replica_bounds import ReplicaBounds
from headrace_gateway.mesh.placement.reports import ReportedLoad

_SLACK = 0.5
"""The share of its execution slots that a model may need for one replica to be too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRule:
    """When a model's number of replicas changes.

    Attributes:
        wait_max_s: Queue wait above which a replica is missing.
        up_after_s: How long the wait must be above it before another replica is asked for.
        down_after_s: How long one replica must have been too many before it is asked for no more.
    """

    wait_max_s: float
    up_after_s: float
    down_after_s: float


class ReplicaCount:
    """Follows one model's load, a step at a time. Pure.

    Up when calls have waited too long for a time, down when the calls in flight would have filled half of the slots of
    one replica fewer for a longer time. Both can't be true of the same load: whatever it is, the count comes to rest.

    Args:
        rule: When the number changes.
        loaded: Replicas that there are now: a gateway that has just started goes on with what others decided.
        delay_s: How long calls wait on purpose, for others to share an execution with.
    """

    def __init__(self, *, rule: ScalingRule, loaded: int, delay_s: float = 0.0) -> None:
        self._rule = rule
        self._wait_max_s = rule.wait_max_s + delay_s
        self._count = loaded
        self._high_since: float | None = None
        self._low_since: float | None = None

    def decide(self, now: float, load: ReportedLoad, bounds: ReplicaBounds) -> int:
        """The number of replicas from now on, at least `bounds.used` and at most `bounds.most`."""
        self._count = min(max(self._count, bounds.used), bounds.most)
        if load.replicas < self._count:
            # What is on its way comes first; the load of those that are there says nothing about later.
            self._high_since = self._low_since = None
            return self._count
        high = load.in_flight > load.slots and load.queue_wait_s >= self._wait_max_s
        low = not high and load.in_flight <= _SLACK * (self._count - 1) * load.slots / load.replicas
        self._high_since = _since(self._high_since, high, now)
        self._low_since = _since(self._low_since, low, now)
        if self._high_since is not None and now - self._high_since >= self._rule.up_after_s:
            self._step(1, bounds)
        elif self._low_since is not None and now - self._low_since >= self._rule.down_after_s:
            self._step(-1, bounds)
        return self._count

    def _step(self, by: int, bounds: ReplicaBounds) -> None:
        self._count = min(max(self._count + by, bounds.used), bounds.most)
        self._high_since = self._low_since = None


def _since(before: float | None, holds: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if before is None else before
