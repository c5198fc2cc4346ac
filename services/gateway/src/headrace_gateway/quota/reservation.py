"""What a call has reserved of its tenant's limits, until it is settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace_gateway.quota.amounts import Amounts

if TYPE_CHECKING:
    from headrace_gateway.quota.lease import Lease


class Terms:
    """What counts the calls of a tenant for a model.

    Attributes:
        leases: Of all limits that count them.
        by_call: Those that count each call as one: of requests and of calls at once.
        by_amount: The others.
        changing: Those that must hear of a call's end, whatever it used. A call that has been let in counts as one
            request, so leases of requests don't.
    """

    __slots__ = ("by_amount", "by_call", "changing", "leases")

    def __init__(self, leases: Sequence[Lease]) -> None:
        self.leases = tuple(leases)
        self.by_call = tuple(lease for lease in leases if lease.field <= 0)
        self.by_amount = tuple(lease for lease in leases if lease.field > 0)
        self.changing = tuple(lease for lease in leases if lease.field != 0)


class Reservation:
    """One call's part of every limit that it counts against. The first of `settle` and `release` counts, once.

    Build it through `LeaseBook.reserve`.

    Attributes:
        by_amount: Whether it matters how much the call used.
    """

    __slots__ = ("_epoch", "_estimate", "_terms", "by_amount")

    def __init__(self, terms: Terms, estimate: Amounts, epoch: int) -> None:
        self._terms = terms
        self._estimate = estimate
        self._epoch = epoch
        self.by_amount = bool(terms.by_amount)

    def settle(self, actual: Amounts) -> None:
        """The call ended and used `actual`. What it used more than estimated is taken off later permits."""
        terms, self._terms = self._terms, NO_TERMS
        for lease in terms.changing:
            lease.settle(self._estimate, actual, self._epoch)

    def release(self) -> None:
        """The call was never forwarded: everything comes back."""
        terms, self._terms = self._terms, NO_TERMS
        for lease in terms.leases:
            lease.settle(self._estimate, NOTHING, self._epoch)


NOTHING = Amounts(requests=0)
NO_TERMS = Terms(())
NO_LIMITS = Reservation(NO_TERMS, NOTHING, 0)
"""The reservation of every call that no limit counts; settling it does nothing."""
