"""How many calls may be under way at once: a number that holds until quota changes it."""

from __future__ import annotations

from collections.abc import Callable

from headrace.quota.v1.quotas_pb2 import Limit
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.lease import Lease, LeaseKey, Need, Share


class ConcurrencyLease(Lease):
    """Places for calls. `free` is those not taken; it is below 0 while more calls are under way than there may be.

    What was granted stays this gateway's for as long as its share does, so it needs no other fallback.
    """

    __slots__ = ("_held", "_small", "_wake", "in_use")

    def __init__(self, *, key: LeaseKey, limit: Limit, now_s: float, wake: Callable[[], None]) -> None:
        super().__init__(key=key, limit=limit, now_s=now_s)
        self.in_use = 0
        self._held = 0
        self._wake = wake
        self._small = self.small

    def follow_limit(self, limit: Limit) -> None:
        super().follow_limit(limit)
        self._small = self.small

    @property
    def idle(self) -> bool:
        return self._held == 0 and self.free == 0

    def settle(self, estimate: Amounts, actual: Amounts, epoch: int) -> None:
        """The call ended: its place is free, whatever it used."""
        self.free += 1
        if self._small:
            # Others may be waiting for just this place.
            self._wake()

    def need(self, now_s: float, waiting: int, share: Share) -> Need:
        """Keeps the places that calls took since the last report, and the gateway's share of a limit that is in use."""
        before = self._held
        in_use = before - self.free
        self.in_use = in_use
        keep = in_use
        if not self.small:
            keep = max(in_use, min(self.asked, before))
            if keep:
                keep = max(keep, int(self.limit.amount * share.part))
        self.asked = 0
        wanted = keep + waiting
        self._hold(min(before, wanted))
        return Need(wanted=wanted, waiting=max(0, in_use + waiting - self._held), held=self._held, in_use=in_use)

    def grant(self, need: Need, granted: int, until_s: float) -> None:
        self._hold(granted)
        self.until_s = until_s

    def void(self) -> None:
        self._hold(0)

    def _hold(self, places: int) -> None:
        self.free += places - self._held
        self._held = places
