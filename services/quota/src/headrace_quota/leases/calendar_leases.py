"""Slices of calendar quotas and the gateways' membership, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common.postgres import Database
from headrace_quota.statements import statement

_WINDOWS: dict[int, str] = {pb.WINDOW_HOUR: "HOUR", pb.WINDOW_DAY: "DAY", pb.WINDOW_MONTH: "MONTH"}
_RESOURCES: dict[int, str] = {
    pb.RESOURCE_REQUESTS: "REQUESTS",
    pb.RESOURCE_TOKENS: "TOKENS",
    pb.RESOURCE_INPUT_BYTES: "INPUT_BYTES",
    pb.RESOURCE_DEVICE_MS: "DEVICE_MS",
}
CALENDAR_WINDOWS = frozenset(_WINDOWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What a gateway wants of one calendar window, and gives back."""

    tenant_id: str
    model: str
    resource: int
    window: int
    window_start: datetime
    wanted: int
    waiting: int
    returned: int


@dataclass(frozen=True, slots=True)
class SliceGrant:
    """What was granted in addition, and what is used and held of the window by all."""

    granted: int
    taken: int


@dataclass(frozen=True, slots=True)
class Membership:
    """The part of every limit that a gateway may go by on its own, what it may believe to have, and the sum of that."""

    share: float
    counted: float
    total: float


class CalendarLeases:
    """Each method is one transaction in the service's scope. All raise `StorageError`s.

    Args:
        expire_s: How long a gateway that is not seen any more keeps what it holds.
    """

    def __init__(self, *, database: Database, expire_s: float) -> None:
        self._database = database
        self._expire_s = expire_s

    async def renew(self, gateway_id: str, share: float) -> Membership:
        """Notes that a gateway lives, which goes by `share` now."""
        async with self._database.service() as connection:
            values = {"gateway_id": gateway_id, "share": share, "expire_s": self._expire_s}
            row = await (await connection.execute(statement("renew_gateway"), values)).fetchone()
        assert row is not None
        return Membership(row["share"], row["counted"], row["total"])

    async def leave(self, gateway_ids: Sequence[str]) -> None:
        """Forgets gateways that have ended."""
        async with self._database.service() as connection:
            for gateway_id in gateway_ids:
                await connection.execute(statement("leave_gateway"), {"gateway_id": gateway_id})

    async def take(self, gateway_id: str, slices: Sequence[Slice]) -> list[SliceGrant | None]:
        """Takes back and grants; None for a limit that doesn't hold."""
        grants: dict[int, SliceGrant | None] = {}
        async with self._database.service() as connection:
            # In one order for all, so that reports never wait for each other in a circle.
            for place in sorted(range(len(slices)), key=lambda place: _order(slices[place])):
                wish = slices[place]
                values = {
                    "gateway_id": gateway_id,
                    "tenant_id": wish.tenant_id,
                    "model": wish.model,
                    "resource": _RESOURCES[wish.resource],
                    "time_window": _WINDOWS[wish.window],
                    "window_start": wish.window_start,
                    "wanted": wish.wanted,
                    "waiting": wish.waiting,
                    "returned": wish.returned,
                }
                row = await (await connection.execute(statement("lease_calendar"), values)).fetchone()
                grants[place] = SliceGrant(row["granted"], row["taken"]) if row is not None else None
        return [grants[place] for place in range(len(slices))]

    async def expire(self) -> int:
        """Gives back what lost gateways held; how many slices that were."""
        async with self._database.service() as connection:
            row = await (await connection.execute(statement("expire_leases"), {"expire_s": self._expire_s})).fetchone()
        return row["expired"] if row is not None else 0


def _order(wish: Slice) -> tuple[str, str, int, int]:
    return wish.tenant_id, wish.model, wish.resource, wish.window
