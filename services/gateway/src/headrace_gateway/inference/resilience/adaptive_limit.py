"""How many calls a replica has at once, found from how long they wait there."""

from __future__ import annotations

WAIT_BASE_S = 0.15
"""More than the wait at which placement asks for another replica, which looks at runners' queues alone."""
_WINDOW_S = 0.1
_SAMPLES_MIN = 4
_SHRINK_MIN = 0.5
_GROWTH = 0.1
_FIRST = 32


class AdaptiveLimit:
    """Shrinks while calls wait in the runner's queue for longer than keeps it busy, and grows while they don't.

    A queue must lie somewhere. In the gateway it can be ordered for all replicas, its last can be shed for a more
    urgent call, and it moves to another replica when one comes; in a runner it only delays. What a runner needs to be
    busy is that a next execution waits when one ends, and the way back and forth: twice an execution and some time.

    It begins low and doubles until it was too high for the first time, because a burst that a slow runner has accepted
    can't be taken back. From then on it shrinks in proportion to the excess and grows by a tenth. It grows only while
    it is what holds calls back, and after as many answers as calls may be under way. It is judged ten times a second
    and after four calls, so an observation costs a few additions. Pure.

    Source: slow start as in Jacobson, "Congestion Avoidance and Control", 1988; the gradient as in Netflix's
    concurrency-limits.

    Args:
        limit_min: Lowest limit.
        limit_max: Highest limit.
        wait_base_s: Wait in the queue that is fine beside twice an execution.

    Attributes:
        limit: Calls that may be at the replica.
        held_back: Whether a call could not be sent for the limit since it was judged.
    """

    __slots__ = (
        "_compute_us",
        "_ends_at",
        "_growth",
        "_limit",
        "_max",
        "_min",
        "_queue_us",
        "_samples",
        "_wait_base_us",
        "held_back",
        "limit",
    )

    def __init__(self, *, limit_min: int, limit_max: int, wait_base_s: float = WAIT_BASE_S) -> None:
        self._min = min(limit_min, limit_max)
        self._max = limit_max
        self._wait_base_us = wait_base_s * 1e6
        self._growth = 1.0
        self._limit = float(min(max(_FIRST, self._min), limit_max))
        self.limit = int(self._limit)
        self.held_back = False
        self._ends_at = 0.0
        self._samples = self._queue_us = self._compute_us = 0

    def hold_back(self) -> None:
        """A call could not be sent for the limit. Answers from before that say nothing about whether it is too low."""
        if not self.held_back:
            self.held_back = True
            self._samples = self._queue_us = self._compute_us = 0

    def observe(self, queue_us: int, compute_us: int, now: float) -> None:
        """Counts an answered call: its microseconds in the runner's queue and in the execution."""
        self._samples += 1
        self._queue_us += queue_us
        self._compute_us += compute_us
        if now >= self._ends_at and self._samples >= _SAMPLES_MIN:
            self._adjust(now)

    def _adjust(self, now: float) -> None:
        queue_us = self._queue_us / self._samples
        bearable_us = self._wait_base_us + 2 * self._compute_us / self._samples
        if queue_us > bearable_us:
            self._limit *= max(_SHRINK_MIN, bearable_us / queue_us)
            self._growth = _GROWTH
        elif self._samples < self._limit:
            # What was sent since the limit last grew has not been answered yet.
            return
        elif self.held_back:
            self._limit += max(1.0, self._limit * self._growth)
        self._limit = min(max(self._limit, self._min), self._max)
        self.limit = int(self._limit)
        self.held_back = False
        self._ends_at = now + _WINDOW_S
        self._samples = self._queue_us = self._compute_us = 0
