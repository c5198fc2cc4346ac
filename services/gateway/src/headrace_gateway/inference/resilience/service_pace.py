"""How fast the waiting calls of a model move on, and so how long one more would wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_S = 0.25
# Fewer calls than that in a window may be a hiccup, so it goes on for longer.
_WINDOW_CALLS = 8
_LONG_WINDOW_S = 1.0
_WEIGHT = 0.5
_LATENCY_WEIGHT = 0.1
_FRESH_S = 1.0
_PRIORITIES = 10
# A model may become half as fast before a call that was let in is late. Who is refused at once can go elsewhere; one
# that waits in vain has lost its time. Half a deadline's worth of calls in line is enough to keep replicas busy.
_MARGIN = 2.0


@dataclass(slots=True)
class _Band:
    """The calls of one priority: the time between two that leave, and the window in which they are counted now."""

    interval_s: float = 0.0
    measured_at: float = 0.0
    count: int = 0
    since: float | None = None


class ServicePace:
    """The rate at which calls of each priority leave a line, and what one takes afterwards. Pure.

    Counted over windows of a quarter of a second, or a whole one where few calls leave, because calls leave in bursts
    as executions end and a moment without any says little. Priorities are
    counted apart: what more urgent calls take is not there for the others. What was measured more than a second ago
    says nothing about now: a slow phase must not refuse calls when it is over.
    """

    __slots__ = ("_answered_at", "_bands", "_latency_s")

    def __init__(self) -> None:
        self._latency_s = 0.0
        self._answered_at = 0.0
        self._bands: dict[int, _Band] = {}

    def left(self, priority: int, now: float, *, last: bool) -> None:
        """A call left the line for a replica; the last one of its priority ends the window, as nobody waits."""
        band = self._bands.get(priority)
        if band is None:
            band = self._bands[priority] = _Band()
        if band.since is None:
            band.since, band.count = now, 0
        else:
            band.count += 1
            span_s = now - band.since
            if span_s >= (_WINDOW_S if band.count >= _WINDOW_CALLS else _LONG_WINDOW_S):
                weight = _WEIGHT if self._is_fresh(band, now) else 1.0
                band.interval_s += weight * (span_s / band.count - band.interval_s)
                band.measured_at = now
                band.since, band.count = now, 0
        if last:
            band.since = None

    def answered(self, latency_s: float, now: float) -> None:
        """A call was answered so long after it was sent, while others waited."""
        weight = _LATENCY_WEIGHT if self.latency_s(now) else 1.0
        self._latency_s += weight * (latency_s - self._latency_s)
        self._answered_at = now

    def latency_s(self, now: float) -> float:
        """Time from a replica's getting a call to its answer, while others waited; 0 while nothing is known."""
        return self._latency_s if now - self._answered_at <= _FRESH_S else 0.0

    def needed_s(
        self, priority: int, waiting: Callable[[int], int], now: float, *, call_s: float = 0.0, sent: int = 0
    ) -> float:
        """How long one more call takes from now, a margin included; 0 while nothing is known.

        Args:
            priority: Of the call.
            waiting: How many calls of a priority wait.
            now: Reading of a monotonic clock.
            call_s: Least time between two answers, by what executions took of late; 0 when unknown. A line may move
                faster for a moment, when replicas are allowed more calls.
            sent: Calls at replicas.
        """
        wait_s = 0.0
        for level in range(priority, _PRIORITIES):
            band = self._bands.get(level)
            if band is not None and self._is_fresh(band, now):
                wait_s += (waiting(level) + (level == priority)) * max(band.interval_s, call_s)
            else:
                wait_s += waiting(level) * call_s
        return _MARGIN * (wait_s + max(self.latency_s(now), sent * call_s)) if wait_s else 0.0

    @staticmethod
    def _is_fresh(band: _Band, now: float) -> bool:
        return band.interval_s > 0 and now - band.measured_at <= _FRESH_S
