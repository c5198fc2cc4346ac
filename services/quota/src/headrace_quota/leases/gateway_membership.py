"""Which share of every limit each gateway may go by, and for how long that is certain."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError
from headrace_common.tasks import TaskGuard
from headrace_quota.leases.calendar_leases import CalendarLeases, Membership

_RENEW_S = 2.0
_FIRST_WAIT_S = 0.5
_OUTAGE_S = 1.0
"""How long the database isn't asked for slices after it failed."""


@dataclass(slots=True)
class _Member:
    """A gateway that reports to this process.

    Attributes:
        renewed_at_s: When the last renewal that succeeded began.
        asked_at_s: When the last renewal began, and `reported` the share that the gateway went by then.
    """

    membership: Membership
    renewed_at_s: float = float("-inf")
    asked_at_s: float = float("-inf")
    reported: float = -1.0
    renewal: asyncio.Task[None] | None = None


class GatewayMemberships:
    """Renews gateways in the database beside their reports, which never wait for it but at their first.

    Args:
        expire_s: How long a share, slices and concurrency last after the last renewal.
    """

    def __init__(self, *, store: CalendarLeases, expire_s: float, clock: Clock, guard: TaskGuard) -> None:
        self._store = store
        self._expire_s = expire_s
        self._now = clock.monotonic
        self._guard = guard
        self._members: dict[str, _Member] = {}
        self._total = 1.0
        self._failed_at_s = float("-inf")
        self._log = structlog.stdlib.get_logger("leases")

    @property
    def reachable(self) -> bool:
        """Whether asking the database makes sense now."""
        return self._now() >= self._failed_at_s + _OUTAGE_S

    @property
    def total(self) -> float:
        """Sum of the shares that all gateways may believe to have."""
        return self._total

    def failed(self) -> None:
        """The database did not answer."""
        self._failed_at_s = self._now()

    async def met(self, gateway_id: str, share: float) -> tuple[Membership, float]:
        """Notes a report.

        Returns:
            What the gateway may go by, and seconds from now for which that, and all it holds, is its own.
        """
        member = self._members.get(gateway_id)
        if member is None:
            member = self._members[gateway_id] = _Member(Membership(share, share, self._total))
        now_s = self._now()
        if member.renewal is None and (now_s - member.asked_at_s >= _RENEW_S or share != member.reported):
            member.reported = share
            member.asked_at_s = now_s
            member.renewal = self._guard.spawn(self._renew(gateway_id, member, share), name="gateway renewal")
        if member.renewal is not None and member.renewed_at_s < 0:
            await asyncio.wait({member.renewal}, timeout=_FIRST_WAIT_S)
        left_s = max(0.0, member.renewed_at_s + self._expire_s - self._now())
        return member.membership, left_s

    async def leave(self, gateway_ids: list[str]) -> None:
        """Frees the shares of gateways that have ended; where the database is away, their time does."""
        for gateway_id in gateway_ids:
            self._members.pop(gateway_id, None)
        try:
            async with asyncio.timeout(_OUTAGE_S):
                await self._store.leave(gateway_ids)
        except (HeadraceError, TimeoutError):
            self.failed()

    async def expire(self) -> None:
        """Gives back what lost gateways held, now and then, until cancelled."""
        while True:
            await asyncio.sleep(max(0.5, min(30.0, self._expire_s / 4)))
            oldest_s = self._now() - 2 * self._expire_s
            for gateway_id in [name for name, member in self._members.items() if member.asked_at_s < oldest_s]:
                del self._members[gateway_id]
            if not self.reachable:
                continue
            try:
                if expired := await self._store.expire():
                    self._log.info("slices of lost gateways came back", slices=expired)
            except HeadraceError:
                self.failed()

    async def _renew(self, gateway_id: str, member: _Member, share: float) -> None:
        began_s = self._now()
        try:
            membership = await self._store.renew(gateway_id, share)
        except HeadraceError:
            self.failed()
            return
        finally:
            member.renewal = None
        member.membership = membership
        member.renewed_at_s = began_s
        self._total = membership.total
