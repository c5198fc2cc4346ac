"""How fast the waiting calls of a model move on, and so how long one more would wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_S = 0.25
_WEIGHT = 0.5
_LATENCY_WEIGHT = 0.1
# Estimates are missed by as much now and then; a call that is begun too late was computed in vain.
_MARGIN = 1.25


@dataclass(slots=True)
class _Band:
    """The calls of one priority: the time between two that leave, and the window in which they are counted now."""

    interval_s: float = 0.0
    count: int = 0
    since: float | None = None


class ServicePace:
    """The rate at which calls of each priority leave a line, and what one takes afterwards. Pure.

    Counted over windows of a quarter of a second, because calls leave in bursts as executions end. Priorities are
    counted apart: what more urgent calls take is not there for the others.

    Attributes:
        latency_s: Time from a replica's getting a call to its answer, while others waited; 0 while nothing is known.
    """

    __slots__ = ("_bands", "latency_s")

    def __init__(self) -> None:
        self.latency_s = 0.0
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
            if span_s >= _WINDOW_S:
                weight = _WEIGHT if band.interval_s else 1.0
                band.interval_s += weight * (span_s / band.count - band.interval_s)
                band.since, band.count = now, 0
        if last:
            band.since = None

    def answered(self, latency_s: float) -> None:
        """A call was answered so long after it was sent, while others waited."""
        weight = _LATENCY_WEIGHT if self.latency_s else 1.0
        self.latency_s += weight * (latency_s - self.latency_s)

    def needed_s(self, priority: int, waiting: Callable[[int], int]) -> float:
        """How long one more call takes from now, a margin included.

        Args:
            priority: Of the call.
            waiting: How many calls of a priority wait.
        """
        wait_s = sum(
            waiting(level) * band.interval_s + (band.interval_s if level == priority else 0.0)
            for level, band in self._bands.items()
            if level >= priority
        )
        return _MARGIN * (wait_s + self.latency_s) if wait_s else 0.0
