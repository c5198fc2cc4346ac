"""Plans, limits and calendar counters in PostgreSQL. Each method is one transaction.

Plans belong to no tenant, so they are written in the service's own scope; what is a tenant's, in that tenant's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from headrace_common.postgres import Connection, Database
from headrace_quota.limit_rows import limit_from_row, limit_values
from headrace_quota.limits import EffectiveLimit, Limit, Resource, Window
from headrace_quota.plans import Plan, PlanDraft, plan_in_use
from headrace_quota.quota_store import CalendarUse, QuotaStatistics, TenantLimits, TenantUse
from headrace_quota.statements import statement

Row = Mapping[str, Any]


class PostgresQuotaStore:
    """The `QuotaStore` of a running mesh."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def set_plan(self, draft: PlanDraft) -> Plan:
        values = {
            "name": draft.name,
            "display_name": draft.display_name,
            "aggregate_streams": draft.aggregate_streams,
            "limits": _json(draft.limits),
        }
        async with self._database.service() as connection:
            await connection.execute(statement("set_plan"), values)
            gone = await connection.execute(statement("delete_other_plan_limits"), values)
            new = await connection.execute(statement("insert_plan_limits"), values)
            if gone.rowcount or new.rowcount:
                await connection.execute(statement("touch_plan"), values)
            row = await _one(connection, "get_plan", values)
        # It was made or locked above.
        assert row is not None
        return _plan(row)

    async def plan(self, name: str, *, tenant_id: str | None) -> Plan | None:
        scope = self._database.service() if tenant_id is None else self._database.tenant(tenant_id)
        async with scope as connection:
            row = await _one(connection, "get_plan", {"name": name})
        return _plan(row) if row is not None else None

    async def plans(self, *, after_name: str, limit: int) -> Sequence[Plan]:
        async with self._database.service() as connection:
            rows = await _all(connection, "list_plans", {"after_name": after_name, "limit": limit})
        return [_plan(row) for row in rows]

    async def delete_plan(self, name: str) -> bool:
        values = {"name": name, "limits": _json(())}
        async with self._database.service() as connection:
            row = await _one(connection, "lock_plan", values)
            if row is None:
                return False
            if row["in_use"]:
                raise plan_in_use(name)
            await connection.execute(statement("delete_other_plan_limits"), values)
            await connection.execute(statement("delete_plan"), values)
        return True

    async def set_limits(self, tenant_id: str, limits: Sequence[Limit]) -> bool:
        values = {"tenant_id": tenant_id, "limits": _json(limits)}
        async with self._database.tenant(tenant_id) as connection:
            if await _one(connection, "lock_tenant", {"id": tenant_id}) is None:
                return False
            await connection.execute(statement("delete_other_tenant_limits"), values)
            await connection.execute(statement("insert_tenant_limits"), values)
        return True

    async def limits(self, tenant_id: str) -> TenantLimits | None:
        async with self._database.tenant(tenant_id) as connection:
            row = await _one(connection, "tenant_limits", {"tenant_id": tenant_id})
        if row is None:
            return None
        held = sorted((_effective(limit) for limit in row["limits"]), key=lambda held: held.limit.key)
        return TenantLimits(row["plan"], tuple(held))

    async def calendar_use(self, tenant_id: str, *, at: datetime) -> Sequence[CalendarUse]:
        async with self._database.tenant(tenant_id) as connection:
            rows = await _all(connection, "calendar_use", {"tenant_id": tenant_id, "at": at})
        return sorted((_use(row) for row in rows), key=lambda use: use.limit.limit.key)

    async def reset_use(
        self, tenant_id: str, *, model: str, resource: Resource | None, window: Window | None, at: datetime
    ) -> int:
        values = {
            "tenant_id": tenant_id,
            "model": model,
            "resource": resource.value if resource is not None else None,
            "time_window": window.value if window is not None else None,
            "at": at,
        }
        async with self._database.tenant(tenant_id) as connection:
            return (await connection.execute(statement("reset_use"), values)).rowcount

    async def statistics(self, *, tenants_max: int, at: datetime) -> QuotaStatistics:
        async with self._database.service() as connection:
            rows = await _all(connection, "quota_statistics", {"limit": tenants_max, "at": at})
        return QuotaStatistics(
            tenants_limited=rows[0]["tenants_limited"],
            tenants_exhausted=rows[0]["tenants_exhausted"],
            nearest=[TenantUse(row["tenant_id"], _use(row)) for row in rows if row["tenant_id"] is not None],
        )

    async def forget_ended_windows(self) -> int:
        async with self._database.service() as connection:
            row = await _one(connection, "forget_ended_windows", {})
        assert row is not None, "a function without rows"
        return row["gone"]


async def _one(connection: Connection, name: str, values: Row) -> Row | None:
    return await (await connection.execute(statement(name), values)).fetchone()


async def _all(connection: Connection, name: str, values: Row) -> Sequence[Row]:
    return await (await connection.execute(statement(name), values)).fetchall()


def _json(limits: Sequence[Limit]) -> Jsonb:
    return Jsonb([limit_values(limit) for limit in limits])


def _plan(row: Row) -> Plan:
    limits = [limit_from_row(held) for held in row["limits"] or ()]
    return Plan(
        name=row["name"],
        display_name=row["display_name"],
        limits=tuple(sorted(limits, key=lambda limit: limit.key)),
        aggregate_streams=row["aggregate_streams"],
        create_time=row["created_at"].astimezone(UTC),
        update_time=row["updated_at"].astimezone(UTC),
    )


def _effective(row: Row) -> EffectiveLimit:
    return EffectiveLimit(limit_from_row(row), row["own"])


def _use(row: Row) -> CalendarUse:
    return CalendarUse(
        limit=_effective(row),
        used=row["used"],
        held=row["held"],
        window_start=row["window_start"].astimezone(UTC),
        window_end=row["window_end"].astimezone(UTC),
    )
