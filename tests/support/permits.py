"""Permits that a test hands out, in place of what quota grants."""

from __future__ import annotations

import asyncio

from headrace_common.errors import HeadraceError
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.reservation import NO_TERMS, Reservation


class Permit(Reservation):
    """Tells how it ended."""

    __slots__ = ("book", "estimate")

    def __init__(self, book: Permits, estimate: Amounts) -> None:
        super().__init__(NO_TERMS, estimate, 0)
        self.by_amount = True
        self.book = book
        self.estimate = estimate

    def settle(self, actual: Amounts) -> None:
        self.book.ended(self, actual)

    def release(self) -> None:
        self.book.ended(self, None)


class Permits:
    """A book with so many permits: a call more waits until `grant`, or is refused with `refusal`.

    Attributes:
        held: Reservations that have not ended.
        settled: What was used, in the order in which calls ended; None for those that gave back everything.
    """

    def __init__(self, left: int) -> None:
        self.left = left
        self.refusal: HeadraceError | None = None
        self.held: list[Permit] = []
        self.settled: list[Amounts | None] = []
        self._waiting: list[tuple[Amounts, asyncio.Future[Reservation]]] = []

    def reserve(self, tenant_id: str, model: str, estimate: Amounts) -> Reservation | None:
        if self.refusal is not None:
            raise self.refusal
        return self._take(estimate) if self.left else None

    async def granted(self, tenant_id: str, model: str, estimate: Amounts, timeout_s: float) -> Reservation:
        answer: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self._waiting.append((estimate, answer))
        return await answer

    def grant(self) -> None:
        """Lets the first waiting call through."""
        estimate, answer = self._waiting.pop(0)
        self.left += 1
        answer.set_result(self._take(estimate))

    def refuse(self, error: HeadraceError) -> None:
        """Refuses the first waiting call."""
        self._waiting.pop(0)[1].set_exception(error)

    def ended(self, permit: Permit, actual: Amounts | None) -> None:
        self.held.remove(permit)
        self.settled.append(actual)

    def _take(self, estimate: Amounts) -> Permit:
        self.left -= 1
        permit = Permit(self, estimate)
        self.held.append(permit)
        return permit
