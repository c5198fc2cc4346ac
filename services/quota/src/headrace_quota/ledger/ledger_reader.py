"""What is asked of the ledger and the audit log, one statement a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headrace_common.postgres import Database
from headrace_quota.statements import statement
from headrace_quota.tenants import tenant_not_found

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a row in a listing by time."""

    time: datetime
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFilter:
    """Which rows of a tenant's ledger are meant; empty texts mean all.

    Attributes:
        start_time: Admitted then or later.
        end_time: Admitted before.
    """

    tenant_id: str
    start_time: datetime
    end_time: datetime
    model: str = ""
    status: str = ""
    request_id: str = ""
    subject: str = ""


class LedgerReader:
    """Reads in the scope of the tenant that is meant. All methods raise `StorageUnavailable` (UNAVAILABLE)."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def check_tenant(self, tenant_id: str) -> None:
        """Raises TENANT_NOT_FOUND (NOT_FOUND) for a tenant that isn't there."""
        if not await self._all(tenant_id, "get_tenant", {"id": tenant_id}):
            raise tenant_not_found(tenant_id)

    async def requests(self, wanted: RequestFilter, *, after: Position | None, limit: int) -> Sequence[Row]:
        """Rows of the ledger, newest first."""
        values = {
            "tenant_id": wanted.tenant_id,
            "start_time": wanted.start_time,
            "end_time": wanted.end_time,
            "model": wanted.model,
            "status": wanted.status,
            "request_id": wanted.request_id,
            "subject": wanted.subject,
            **_after(after),
            "limit": limit,
        }
        return await self._all(wanted.tenant_id, "list_requests", values)

    async def export(
        self, tenant_id: str, start_time: datetime, end_time: datetime, *, after: Position | None, limit: int
    ) -> Sequence[Row]:
        """Rows of the ledger, oldest first."""
        values = {"tenant_id": tenant_id, "start_time": start_time, "end_time": end_time, **_after(after)}
        return await self._all(tenant_id, "export_requests", {**values, "limit": limit})

    async def sums(
        self, tenant_id: str, start_time: datetime, end_time: datetime, *, model: str, span: str, limit: int
    ) -> Sequence[Row]:
        """Hourly sums put together to spans of `hour`, `day` or `month`, UTC."""
        values = {"tenant_id": tenant_id, "start_time": start_time, "end_time": end_time, "model": model}
        return await self._all(tenant_id, "summarize_usage", {**values, "span": span, "limit": limit})

    async def runner_events(
        self, *, runner_id: str, start_time: datetime, after: Position | None, limit: int
    ) -> Sequence[Row]:
        """What happened to runners, newest first."""
        values = {"runner_id": runner_id, "start_time": start_time, **_after(after), "limit": limit}
        async with self._database.service() as connection:
            return await (await connection.execute(statement("list_runner_events"), values)).fetchall()

    async def audit_entries(
        self, tenant_id: str, *, position: int, newest_first: bool, method: str, actor: str, limit: int
    ) -> Sequence[Row]:
        """Entries of a chain after a place, or before it where the newest come first."""
        name = "list_newest_audit_entries" if newest_first else "list_audit_entries"
        values = {"tenant_id": tenant_id, "position": position, "method": method, "actor": actor, "limit": limit}
        return await self._all(tenant_id, name, values)

    async def _all(self, tenant_id: str, name: str, values: Row) -> Sequence[Row]:
        async with self._database.tenant(tenant_id) as connection:
            return await (await connection.execute(statement(name), values)).fetchall()


def _after(position: Position | None) -> Row:
    if position is None:
        return {"after_time": None, "after_id": None}
    return {"after_time": position.time, "after_id": position.id}
