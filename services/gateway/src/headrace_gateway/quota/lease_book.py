"""What the calls of every tenant may use here. Pure: it decides at once, the lease client moves the messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.quota.v1.quotas_pb2 import WINDOW_MOMENT, Limit
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError, QuotaUnavailable
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.calendar_lease import CALENDAR_WINDOWS, CalendarLease, window_end, window_start
from headrace_gateway.quota.concurrency_lease import ConcurrencyLease
from headrace_gateway.quota.lease import NOTHING_NEEDED, Lease, LeaseKey, Need, Share
from headrace_gateway.quota.rate_lease import RateLease
from headrace_gateway.quota.refusals import exceeded, resource_name, unavailable
from headrace_gateway.quota.reservation import NO_LIMITS, Reservation, Terms

_WAITERS_MAX = 10_000
_PATIENCE_S = 1.0
"""How long after the stream to quota broke calls may wait for the next one."""
_RETRY_S = 0.5
_NEXT_WINDOW_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiter:
    """A call that waits for a grant."""

    tenant_id: str
    model: str
    estimate: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class _TenantLeases:
    """A tenant's leases, by model where a model has limits of its own; composed anew when a window is over."""

    limits: Sequence[Limit]
    every: tuple[Lease, ...]
    general: Terms
    by_model: dict[str, Terms]
    until_s: float


class LeaseBook:
    """Reserves amounts of every limit of a call at once. One event loop.

    Args:
        limits_of: A tenant's limits that hold, the same object until they change.
        wake: Called when a report should go out without delay.
        refused: Told of each refusal: its reason, and what the limit counts.

    Attributes:
        share: What holds while nobody grants anything.
        live: Leases that quota must hear of.
    """

    def __init__(
        self,
        *,
        limits_of: Callable[[str], Sequence[Limit]],
        clock: Clock,
        wake: Callable[[], None],
        refused: Callable[[str, str], None] = lambda _reason, _resource: None,
    ) -> None:
        self.share = Share()
        self.live: dict[LeaseKey, Lease] = {}
        self._limits_of = limits_of
        self._clock = clock
        self._now = clock.monotonic
        self._wake = wake
        self._refused = refused
        self._tenants: dict[str, _TenantLeases] = {}
        self._waiters: dict[asyncio.Future[Reservation], _Waiter] = {}
        self._epoch = 0
        self._connected = False
        self._store_lost = False
        self._patient_until_s = self._now() + _PATIENCE_S

    @property
    def waiting(self) -> int:
        """Calls that wait for a grant."""
        return len(self._waiters)

    def reserve(self, tenant_id: str, model: str, estimate: Amounts) -> Reservation | None:
        """Takes a call's part of every limit that counts it, or of none. Microseconds, no I/O.

        Returns:
            None: a grant may make it possible; await `granted`.

        Raises:
            QuotaExceeded: QUOTA_EXCEEDED, RATE_LIMIT_EXCEEDED or CONCURRENCY_LIMIT_EXCEEDED (RESOURCE_EXHAUSTED).
            QuotaUnavailable: QUOTA_UNAVAILABLE (UNAVAILABLE): quota is out of reach and the share is used up or none.
        """
        limits = self._limits_of(tenant_id)
        if not limits:
            return NO_LIMITS
        now_s = self._now()
        tenant = self._tenants.get(tenant_id)
        if tenant is None or tenant.limits is not limits or now_s >= tenant.until_s:
            tenant = self._composed(tenant_id, limits, now_s)
        terms = tenant.by_model.get(model) or tenant.general
        for lease in terms.by_call:
            if lease.free < 1 or now_s >= lease.until_s:
                return self._reserved_slowly(terms, estimate, now_s)
        for lease in terms.by_amount:
            amount = estimate[lease.field] or lease.least
            if amount and (amount > lease.free or now_s >= lease.until_s):
                return self._reserved_slowly(terms, estimate, now_s)
        for lease in terms.by_call:
            lease.free -= 1
            lease.asked += 1
        for lease in terms.by_amount:
            amount = estimate[lease.field] or lease.least
            lease.free -= amount
            lease.asked += amount
        return Reservation(terms, estimate, self._epoch) if terms.leases else NO_LIMITS

    async def granted(self, tenant_id: str, model: str, estimate: Amounts, timeout_s: float) -> Reservation:
        """Waits until a grant lets the call through.

        Raises:
            QuotaExceeded: The answer was that the limit is reached.
            QuotaUnavailable: There was no answer within `timeout_s`, or nobody to ask.
        """
        if len(self._waiters) >= _WAITERS_MAX:
            raise QuotaUnavailable("too many calls wait for permits", retry_after_s=_RETRY_S)
        answer: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self.enqueue(tenant_id, model, estimate, answer)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(answer)
        except BaseException as failure:
            # The answer may have come together with the timeout or the call's end.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                if isinstance(failure, TimeoutError):
                    return answer.result()
                answer.result().release()
            if isinstance(failure, TimeoutError):
                raise QuotaUnavailable(f"permits did not come within {timeout_s:g} s", retry_after_s=_RETRY_S) from None
            raise
        finally:
            self.withdraw(answer)

    def enqueue(self, tenant_id: str, model: str, estimate: Amounts, answer: asyncio.Future[Reservation]) -> None:
        """A call waits: `answer` gets its reservation, or why there is none."""
        self._waiters[answer] = _Waiter(tenant_id=tenant_id, model=model, estimate=estimate)
        self._wake()

    def withdraw(self, answer: asyncio.Future[Reservation]) -> None:
        """The call waits no more."""
        self._waiters.pop(answer, None)

    # What the lease client tells -------------------------------------------------------------------------------------

    def connected(self) -> None:
        """A stream to quota is open: waiting for its answers makes sense."""
        self._connected = True

    def disconnected(self) -> None:
        """The stream broke: calls may wait for the next one for a moment."""
        if self._connected:
            self._connected = False
            self._patient_until_s = self._now() + _PATIENCE_S

    def needs(self, sequence: int, *, most: int) -> list[tuple[Lease, Need]]:
        """What the next report says of each limit; from now on the gateway keeps to it.

        Args:
            sequence: Number of the report.
            most: How many limits it may have: those that calls wait for first, then those that waited longest.
        """
        now_s = self._now()
        self._epoch = sequence
        waiting = self._waiting_amounts(now_s)
        self._prepare_next_windows(now_s)
        needs: list[tuple[Lease, Need]] = []
        for lease in list(dict.fromkeys([*waiting, *self.live.values()]))[:most]:
            # To the end of the line, or out of it.
            self.live.pop(lease.key, None)
            if lease.over_s <= now_s:
                continue
            lease.epoch = sequence
            need = lease.need(now_s, waiting.get(lease, 0), self.share)
            if need != NOTHING_NEEDED or not lease.idle:
                self.live[lease.key] = lease
            needs.append((lease, need))
        return needs

    def leave(self) -> None:
        """The next report is the last one: all but calls under way goes back."""
        self.share = Share()
        for tenant in self._tenants.values():
            self.live |= {lease.key: lease for lease in tenant.every if not lease.idle}
        for lease in self.live.values():
            lease.retire(self._now())

    def renewed(self, *, share: Share, store_lost: bool) -> None:
        """A report was answered: the share is this one now.

        Args:
            share: Part and times.
            store_lost: Whether rates and concurrency could not be granted.
        """
        self.share = share
        self._store_lost = store_lost
        for lease in self.live.values():
            if isinstance(lease, CalendarLease):
                lease.until_s = min(share.until_s, lease.over_s)

    def answer_waiting(self) -> None:
        """After a grant: lets through whom it allows, first come first served, and refuses whom it refuses."""
        for answer, waiter in self._waiters.items():
            if answer.done():
                continue
            try:
                reservation = self.reserve(waiter.tenant_id, waiter.model, waiter.estimate)
            except HeadraceError as error:
                answer.set_exception(error)
            else:
                if reservation is not None:
                    answer.set_result(reservation)

    # -----------------------------------------------------------------------------------------------------------------

    def _reserved_slowly(self, terms: Terms, estimate: Amounts, now_s: float) -> Reservation | None:
        missing = False
        for lease in terms.leases:
            amount = lease.amount(estimate)
            self.live[lease.key] = lease
            if amount and lease.available(now_s, self.share) < amount:
                try:
                    self._refuse_or_wait(lease, amount, now_s)
                except HeadraceError as error:
                    self._refused(error.reason, resource_name(lease.limit))
                    raise
                missing = True
        if missing:
            return None
        for lease in terms.leases:
            if amount := lease.amount(estimate):
                lease.draw(amount, now_s)
        return Reservation(terms, estimate, self._epoch)

    def _refuse_or_wait(self, lease: Lease, amount: int, now_s: float) -> None:
        """Returns where asking quota makes sense.

        Raises:
            QuotaExceeded: Quota said so lately, or the limit never lets so much through at once.
            QuotaUnavailable: Nobody can be asked.
        """
        if amount > lease.most:
            raise exceeded(lease.limit, used=max(0, lease.used), retry_after_s=lease.renews_in_s(now_s))
        if now_s < lease.refused_until_s:
            lease.asked += amount
            left_s = lease.retry_in_s(now_s)
            if lease.used < 0:
                raise unavailable(lease.limit, retry_after_s=left_s)
            raise exceeded(lease.limit, used=lease.used, retry_after_s=left_s)
        lost = self._store_lost and not isinstance(lease, CalendarLease)
        if not lost and (self._connected or now_s < self._patient_until_s):
            return
        ready_in_s = lease.share_ready_in_s(amount, now_s, self.share)
        raise unavailable(lease.limit, retry_after_s=_RETRY_S if ready_in_s is None else max(0.01, ready_in_s))

    def _waiting_amounts(self, now_s: float) -> dict[Lease, int]:
        amounts: dict[Lease, int] = {}
        for answer, waiter in self._waiters.items():
            if answer.done():
                continue
            limits = self._limits_of(waiter.tenant_id)
            tenant = self._tenants.get(waiter.tenant_id)
            if tenant is None or tenant.limits is not limits or now_s >= tenant.until_s:
                tenant = self._composed(waiter.tenant_id, limits, now_s)
            for lease in (tenant.by_model.get(waiter.model) or tenant.general).leases:
                self.live[lease.key] = lease
                amounts[lease] = amounts.get(lease, 0) + lease.amount(waiter.estimate)
        return amounts

    def _composed(self, tenant_id: str, limits: Sequence[Limit], now_s: float) -> _TenantLeases:
        """Leases of the limits that hold now; those of before, and of the same window, stay with what they have."""
        now = self._clock.now()
        former = self._tenants.get(tenant_id)
        kept = {lease.key: lease for lease in former.every} if former is not None else {}
        kept |= {key: lease for key, lease in self.live.items() if key.tenant_id == tenant_id}
        leases = tuple(self._lease(tenant_id, limit, kept, now, now_s) for limit in limits)
        general = Terms([lease for lease in leases if not lease.key.model])
        models = {lease.key.model for lease in leases} - {""}
        tenant = self._tenants[tenant_id] = _TenantLeases(
            limits=limits,
            every=leases,
            general=general,
            by_model={model: Terms([lease for lease in leases if lease.key.model in ("", model)]) for model in models},
            until_s=min((lease.over_s for lease in leases), default=float("inf")),
        )
        return tenant

    def _lease(self, tenant_id: str, limit: Limit, kept: dict[LeaseKey, Lease], now: datetime, now_s: float) -> Lease:
        start = window_start(limit.window, now) if limit.window in CALENDAR_WINDOWS else None
        key = LeaseKey(
            tenant_id, limit.model, limit.resource, limit.window, int(start.timestamp()) if start is not None else 0
        )
        lease = kept.get(key)
        if lease is not None:
            lease.follow_limit(limit)
            return lease
        if start is not None:
            lease = CalendarLease(key=key, limit=limit, now_s=now_s)
            lease.over_s = now_s + (window_end(limit.window, start) - now).total_seconds()
            return lease
        if limit.window == WINDOW_MOMENT:
            return ConcurrencyLease(key=key, limit=limit, now_s=now_s, wake=self._wake)
        return RateLease(key=key, limit=limit, now_s=now_s)

    def _prepare_next_windows(self, now_s: float) -> None:
        """Asks for slices of windows that begin soon: the turn of an hour finds them here, database or not."""
        ending = [
            lease
            for lease in self.live.values()
            if isinstance(lease, CalendarLease) and lease.free > 0 and lease.over_s - now_s < _NEXT_WINDOW_S
        ]
        for lease in ending:
            start = window_end(lease.key.window, datetime.fromtimestamp(lease.key.window_start, UTC))
            key = lease.key._replace(window_start=int(start.timestamp()))
            upcoming = self.live.get(key)
            if upcoming is None:
                upcoming = self.live[key] = CalendarLease(key=key, limit=lease.limit, now_s=now_s)
                upcoming.over_s = lease.over_s + (window_end(lease.key.window, start) - start).total_seconds()
            if isinstance(upcoming, CalendarLease):
                upcoming.follow(lease, now_s)
