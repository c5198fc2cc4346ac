"""Permits of a rate: few and for a short time, or this gateway's own part of the rate while nobody grants any."""

from __future__ import annotations

from headrace.quota.v1.quotas_pb2 import RATE_ALGORITHM_SLIDING_WINDOW, RESOURCE_REQUESTS, Limit
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.lease import SMALL, Lease, LeaseKey, Need, Share

_AHEAD_S = 1.5
"""Demand that a report asks for: until the grant after the next."""
_LOST_GRANT_S = 2.0
"""How long after the last grant its permits may still be used."""


class RateLease(Lease):
    """Permits that end with their time, however many are left.

    Fallback: a bucket with the gateway's part of rate and burst, empty when the share begins to hold. Of a sliding
    window half the part is the bucket's size and half comes in over the window, which makes the part in any window;
    and it begins a window later, when nothing granted before lies in the same window.
    """

    __slots__ = ("_level", "_level_s", "_returned")

    def __init__(self, *, key: LeaseKey, limit: Limit, now_s: float) -> None:
        super().__init__(key=key, limit=limit, now_s=now_s)
        self._returned = 0
        self._level = 0.0
        self._level_s = 0.0

    @property
    def period_s(self) -> float:
        """Time in which `amount` may be used."""
        period = self.limit.period
        return period.seconds + period.nanos / 1e9 or 1.0

    @property
    def sliding(self) -> bool:
        """Whether it is kept as an exact window."""
        return self.limit.algorithm == RATE_ALGORITHM_SLIDING_WINDOW

    @property
    def burst(self) -> int:
        """The most that can be used at once."""
        return self.limit.amount if self.sliding else self.limit.burst or self.limit.amount

    @property
    def most(self) -> int:
        return self.burst

    @property
    def small(self) -> bool:
        return self.burst < SMALL

    def renews_in_s(self, now_s: float) -> float:
        return self.period_s

    @property
    def idle(self) -> bool:
        return super().idle and not self._returned

    def available(self, now_s: float, share: Share) -> int:
        if now_s < self.until_s:
            return self.free
        self._expire()
        return int(self._filled(now_s, share)) + self.free

    def draw(self, amount: int, now_s: float) -> None:
        self.asked += amount
        if now_s < self.until_s:
            self.free -= amount
        else:
            self._level -= amount

    def share_ready_in_s(self, amount: int, now_s: float, share: Share) -> float | None:
        """Seconds until the share lets `amount` through; None if it never does."""
        start_s, rate, burst = self._own(share)
        missing = amount - self.free
        if missing > burst or rate <= 0 or share.until_s <= start_s:
            return None
        if now_s < start_s:
            return start_s - now_s + missing / rate
        return max(0.0, missing - self._filled(now_s, share)) / rate

    def settle(self, estimate: Amounts, actual: Amounts, epoch: int) -> None:
        left = self.amount(estimate) - actual[self.field]
        if left < 0:
            self.free += left
            self.asked -= left
        elif epoch >= self.epoch:
            self.free += left
        elif self.limit.resource != RESOURCE_REQUESTS:
            # Charged long ago, so quota counts it as it comes back. A call counts when it was let in.
            self._returned += left

    def need(self, now_s: float, waiting: int, share: Share) -> Need:
        if now_s >= self.until_s:
            self._expire()
        debt = max(0, -self.free)
        demand = self.demand_per_s(now_s)
        ahead = 0 if self.small else int(min(demand * _AHEAD_S, self.burst))
        keep = min(max(self.free, 0), ahead + waiting)
        returned = self._returned + max(self.free, 0) - keep
        if self.free > 0:
            self.free = keep
        self._returned = 0
        short = max(0, waiting - keep)
        return Need(
            wanted=max(short, ahead + waiting - keep) + debt,
            waiting=short + debt if waiting else 0,
            held=keep,
            returned=returned,
        )

    def grant(self, need: Need, granted: int, until_s: float) -> None:
        super().grant(need, granted, until_s)
        self._level = 0.0
        self._level_s = 0.0

    def _expire(self) -> None:
        if self.free > 0:
            self.free = 0

    def _own(self, share: Share) -> tuple[float, float, float]:
        """From when the share holds, and its rate and burst."""
        amount = self.limit.amount * share.part
        if not self.sliding:
            return share.from_s, amount / self.period_s, int(self.burst * share.part)
        return share.from_s + self.period_s + _LOST_GRANT_S, amount / 2 / self.period_s, int(amount / 2)

    def _filled(self, now_s: float, share: Share) -> float:
        start_s, rate, burst = self._own(share)
        if not start_s <= now_s < share.until_s:
            return 0.0
        if self._level_s < start_s:
            self._level, self._level_s = 0.0, start_s
        self._level = min(float(burst), self._level + rate * (now_s - self._level_s))
        self._level_s = now_s
        return self._level
