"""How many attempts the gateway may add to those that its clients asked for."""

from __future__ import annotations

from headrace_common.clock import Clock

_CAP_S = 10.0


class RetryBudget:
    """A token bucket that each call fills by a fraction, so that retries can't multiply the load that made them needed.

    Holds at most what ten seconds of the floor bring. Every operation is O(1). Event loop only.
    Source: the retry budgets of Finagle and Linkerd.

    Args:
        ratio: Tokens for each call.
        floor_per_s: Tokens that come with time, for a gateway with few calls.
    """

    __slots__ = ("_cap", "_clock", "_counted", "_floor_per_s", "_ratio", "_tokens", "_topped_up_at", "calls")

    def __init__(self, *, ratio: float, floor_per_s: float, clock: Clock) -> None:
        self.calls = 0
        self._counted = 0
        self._ratio = ratio
        self._floor_per_s = floor_per_s
        self._clock = clock
        self._cap = max(1.0, floor_per_s * _CAP_S)
        self._tokens = self._cap
        self._topped_up_at = clock.monotonic()

    @property
    def left(self) -> float:
        """Tokens in the bucket. Changes nothing, so any thread may ask."""
        return self._worth(self._clock.monotonic())

    def take(self) -> bool:
        """Takes a token for a retry or a hedge, if there is one."""
        self._top_up()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def charge(self) -> None:
        """Counts an attempt that is made in any case: a failover. It leaves less for others, but no debt."""
        self._top_up()
        self._tokens = max(0.0, self._tokens - 1)

    def _top_up(self) -> None:
        # A call only adds to `calls`, which costs next to nothing; what calls bring is worked out here.
        now = self._clock.monotonic()
        self._tokens = self._worth(now)
        self._counted, self._topped_up_at = self.calls, now

    def _worth(self, now: float) -> float:
        earned = (self.calls - self._counted) * self._ratio + (now - self._topped_up_at) * self._floor_per_s
        return min(self._cap, self._tokens + earned)
