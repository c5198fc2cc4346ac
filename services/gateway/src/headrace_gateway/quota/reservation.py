"""What a call has reserved of its tenant's limits, until it is settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_gateway.quota.amounts import Amounts

if TYPE_CHECKING:
    from headrace_gateway.quota.lease import Lease


class Reservation:
    """One call's part of every limit that it counts against. The first of `settle` and `release` counts, once.

    Build it through `LeaseBook.reserve`.
    """

    __slots__ = ("_epoch", "_estimate", "_leases")

    def __init__(self, leases: tuple[Lease, ...], estimate: Amounts, epoch: int) -> None:
        self._leases = leases
        self._estimate = estimate
        self._epoch = epoch

    def settle(self, actual: Amounts) -> None:
        """The call ended and used `actual`. What it used more than estimated is taken off later permits."""
        leases, self._leases = self._leases, ()
        for lease in leases:
            lease.settle(self._estimate, actual, self._epoch)

    def release(self) -> None:
        """The call was never forwarded: everything comes back."""
        leases, self._leases = self._leases, ()
        for lease in leases:
            lease.settle(self._estimate, NOTHING, self._epoch)


NOTHING = Amounts(requests=0)
NO_LIMITS = Reservation((), NOTHING, 0)
"""The reservation of every call that no limit counts; settling it does nothing."""
