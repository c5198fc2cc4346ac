"""Permits of a calendar quota: a slice of one window that lasts for a while, database or not."""

from __future__ import annotations

from datetime import UTC, datetime

from headrace.quota.v1.quotas_pb2 import WINDOW_DAY, WINDOW_HOUR, WINDOW_MONTH, Limit
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.lease import SMALL, Lease, LeaseKey, Need, Share

CALENDAR_WINDOWS = frozenset({WINDOW_HOUR, WINDOW_DAY, WINDOW_MONTH})
_LOW_S = 60.0
_FULL_S = 120.0
"""A slice is filled up to what calls need in so many seconds, once it has less than for `_LOW_S` left."""
_BASE_PARTS = 256
"""A limit that is in use is asked for at least this part of it at once."""


class CalendarLease(Lease):
    """A slice of one window. What is used of it is told to quota by the ledger, not by reports."""

    fade_s = 30.0

    __slots__ = ("_debt", "_returned")

    def __init__(self, *, key: LeaseKey, limit: Limit, now_s: float) -> None:
        super().__init__(key=key, limit=limit, now_s=now_s)
        self._debt = 0
        self._returned = 0

    def follow(self, former: CalendarLease, now_s: float) -> None:
        """Prepares for the demand of the window before."""
        self._demand_per_s = former.demand_per_s(now_s)
        self._measured_s = now_s

    def retry_in_s(self, now_s: float) -> float:
        """Used up is used up until the window ends; what others only hold may come back."""
        return self.renews_in_s(now_s) if self.used >= self.limit.amount else super().retry_in_s(now_s)

    @property
    def idle(self) -> bool:
        return super().idle and not self._returned

    def settle(self, estimate: Amounts, actual: Amounts, epoch: int) -> None:
        left = self.amount(estimate) - actual[self.field]
        self.free += left
        if left < 0:
            self.asked -= left

    @property
    def small(self) -> bool:
        return self.limit.amount < SMALL * _BASE_PARTS

    def need(self, now_s: float, waiting: int, share: Share) -> Need:
        demand = self.demand_per_s(now_s)
        if self.limit.amount < SMALL:
            low = full = 0
        else:
            base = self.limit.amount // _BASE_PARTS if demand > 0 or waiting else 0
            low, full = max(base // 2, int(demand * _LOW_S)), max(base, int(demand * _FULL_S))
        debt = self._debt = max(0, -self.free)
        spare = max(self.free, 0)
        keep = min(spare, waiting + 2 * full)
        returned = self._returned + spare - keep
        self._returned = 0
        if self.free > 0:
            self.free = keep
        short = max(0, waiting - keep)
        wanted = max(short, full + waiting - keep) if keep - waiting < low else short
        return Need(wanted=wanted + debt, waiting=short + debt if waiting else 0, held=keep, returned=returned)

    def grant(self, need: Need, granted: int, until_s: float) -> None:
        super().grant(need, granted, until_s)
        # What covers a debt was charged by the ledger already, so it is not held for anything.
        self._returned += min(self._debt, max(0, granted - need.held))


def window_start(window: int, now: datetime) -> datetime:
    """When the calendar window began that `now` lies in."""
    now = now.astimezone(UTC)
    if window == WINDOW_HOUR:
        return now.replace(minute=0, second=0, microsecond=0)
    if window == WINDOW_DAY:
        return now.replace(hour=0, minute=0, second=0, microsecond=0)
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def window_end(window: int, start: datetime) -> datetime:
    """When the window that began then ends."""
    if window == WINDOW_HOUR:
        return datetime.fromtimestamp(start.timestamp() + 3_600, UTC)
    if window == WINDOW_DAY:
        return datetime.fromtimestamp(start.timestamp() + 86_400, UTC)
    return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
