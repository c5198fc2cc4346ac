"""How fast the waiting calls of a model move on, and so how long one more would wait."""

from __future__ import annotations

_WINDOW_S = 0.25
_WEIGHT = 0.5
_LATENCY_WEIGHT = 0.1
# Estimates are missed by as much now and then; a call that is begun too late was computed in vain.
_MARGIN = 1.25


class ServicePace:
    """The rate at which calls leave a line, over windows of a quarter of a second, and what one takes afterwards. Pure.

    Counted by windows, because calls leave in bursts as executions end.
    """

    __slots__ = ("_count", "_interval_s", "_latency_s", "_since")

    def __init__(self) -> None:
        self._interval_s = 0.0
        self._latency_s = 0.0
        self._count = 0
        self._since: float | None = None

    def left(self, now: float, *, last: bool) -> None:
        """A call left the line for a replica; the last one ends the window, as nobody waits any more."""
        if self._since is None:
            self._since, self._count = now, 0
        else:
            self._count += 1
            span_s = now - self._since
            if span_s >= _WINDOW_S:
                interval_s = span_s / self._count
                weight = _WEIGHT if self._interval_s else 1.0
                self._interval_s += weight * (interval_s - self._interval_s)
                self._since, self._count = now, 0
        if last:
            self._since = None

    def answered(self, latency_s: float) -> None:
        """A call was answered so long after it was sent, while others waited."""
        weight = _LATENCY_WEIGHT if self._latency_s else 1.0
        self._latency_s += weight * (latency_s - self._latency_s)

    def needed_s(self, ahead: int) -> float:
        """How long a call takes from now that has so many before it, a margin included; 0 while nothing is known."""
        return _MARGIN * ((ahead + 1) * self._interval_s + self._latency_s) if self._interval_s else 0.0
