"""Tenants and keys in PostgreSQL. Each method is one transaction in the scope of the tenant that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from headrace_common.postgres import Connection, Database
from headrace_quota.api_keys import ApiKey, KeyDraft, Role, Rotation, key_limit_reached
from headrace_quota.resource_policies import Action, ResourcePolicy
from headrace_quota.statements import statement
from headrace_quota.store import KeyPosition
from headrace_quota.tenant_change import TenantChange
from headrace_quota.tenants import (
    Isolation,
    Tenant,
    TenantDraft,
    TenantStatus,
    tenant_not_found,
    tenant_suspended,
)

Row = Mapping[str, Any]


class PostgresTenantStore:
    """The `TenantStore` of a running mesh."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def insert_tenant(self, draft: TenantDraft) -> tuple[Tenant, bool]:
        values = _tenant_values(draft)
        async with self._database.tenant(draft.id) as connection:
            row = await _one(connection, "insert_tenant", values)
            if row is not None:
                return _tenant(row), True
            row = await _one(connection, "get_tenant", {"id": draft.id})
            # A transaction that inserted the id has committed, or the insert above would have waited for it.
            assert row is not None
            return _tenant(row), False

    async def tenant(self, tenant_id: str) -> Tenant | None:
        async with self._database.tenant(tenant_id) as connection:
            row = await _one(connection, "get_tenant", {"id": tenant_id})
        return _tenant(row) if row is not None else None

    async def tenants(self, *, after_id: str, limit: int) -> Sequence[Tenant]:
        async with self._database.service() as connection:
            rows = await _all(connection, "list_tenants", {"after_id": after_id, "limit": limit})
        return [_tenant(row) for row in rows]

    async def set_tenant_status(self, tenant_id: str, status: TenantStatus) -> Tenant | None:
        async with self._database.tenant(tenant_id) as connection:
            row = await _one(connection, "set_tenant_status", {"id": tenant_id, "status": status.value})
            if row is None:
                row = await _one(connection, "get_tenant", {"id": tenant_id})
        return _tenant(row) if row is not None else None

    async def update_tenant(self, change: TenantChange) -> Tenant | None:
        async with self._database.tenant(change.tenant_id) as connection:
            row = await _one(connection, "lock_tenant", {"id": change.tenant_id})
            if row is None:
                return None
            tenant = _tenant(row)
            changed = change.of(tenant)
            if changed == tenant:
                return tenant
            row = await _one(connection, "update_tenant", _tenant_values(changed))
            assert row is not None
            return _tenant(row)

    async def insert_api_key(self, draft: KeyDraft, *, active_keys_max: int, even_if_suspended: bool) -> ApiKey:
        async with self._database.tenant(draft.tenant_id) as connection:
            await _lock_owner(connection, draft.tenant_id, even_if_suspended=even_if_suspended)
            return await _insert_key(connection, draft, active_keys_max)

    async def adopt_api_key(self, draft: KeyDraft) -> ApiKey | None:
        async with self._database.tenant(draft.tenant_id) as connection:
            row = await _one(connection, "insert_api_key", _key_values(draft))
            if row is None:
                row = await _one(connection, "get_api_key_by_digest", {"sha256": draft.sha256})
        return _api_key(row) if row is not None else None

    async def api_keys(self, tenant_id: str, *, after: KeyPosition | None, limit: int) -> Sequence[ApiKey]:
        values = {
            "tenant_id": tenant_id,
            "after_time": after.create_time if after is not None else None,
            "after_id": after.key_id if after is not None else None,
            "limit": limit,
        }
        async with self._database.tenant(tenant_id) as connection:
            rows = await _all(connection, "list_api_keys", values)
        return [_api_key(row) for row in rows]

    async def revoke_api_key(self, key_id: str, *, tenant_id: str | None) -> ApiKey | None:
        scope = self._database.service() if tenant_id is None else self._database.tenant(tenant_id)
        async with scope as connection:
            row = await _one(connection, "revoke_api_key", {"id": key_id})
            if row is None:
                row = await _one(connection, "get_api_key", {"id": key_id})
        return _api_key(row) if row is not None else None

    async def rotate_api_key(
        self, rotation: Rotation, *, tenant_id: str | None, active_keys_max: int, even_if_suspended: bool
    ) -> tuple[ApiKey, ApiKey] | None:
        scope = self._database.service() if tenant_id is None else self._database.tenant(tenant_id)
        async with scope as connection:
            row = await _one(connection, "get_api_key", {"id": rotation.former_id})
            if row is None:
                return None
            # Whoever locks both locks the tenant first.
            await _lock_owner(connection, row["tenant_id"], even_if_suspended=even_if_suspended)
            row = await _one(connection, "lock_api_key", {"id": rotation.former_id})
            # The role may not delete keys.
            assert row is not None
            former = _api_key(row)
            now = await _now(connection)
            draft = rotation.draft(former, now)
            values = {"id": former.id, "expire_time": rotation.former_ends(former, now)}
            row = await _one(connection, "expire_api_key", values)
            assert row is not None
            return await _insert_key(connection, draft, active_keys_max), _api_key(row)


async def _lock_owner(connection: Connection, tenant_id: str, *, even_if_suspended: bool) -> None:
    owner = await _one(connection, "lock_tenant", {"id": tenant_id})
    if owner is None:
        raise tenant_not_found(tenant_id)
    if owner["status"] == TenantStatus.SUSPENDED and not even_if_suspended:
        raise tenant_suspended(tenant_id)


async def _insert_key(connection: Connection, draft: KeyDraft, active_keys_max: int) -> ApiKey:
    counted = await _one(connection, "count_active_keys", {"tenant_id": draft.tenant_id})
    if counted is None or counted["active"] >= active_keys_max:
        raise key_limit_reached(draft.tenant_id, active_keys_max)
    row = await _one(connection, "insert_api_key", _key_values(draft))
    # 256 random bits don't repeat.
    assert row is not None
    return _api_key(row)


async def _now(connection: Connection) -> datetime:
    """The time of the transaction, by which `count_active_keys` judges too."""
    row = await _one(connection, "transaction_time", {})
    assert row is not None
    return row["now"].astimezone(UTC)


async def _one(connection: Connection, name: str, values: Row) -> Row | None:
    return await (await connection.execute(statement(name), values)).fetchone()


async def _all(connection: Connection, name: str, values: Row) -> Sequence[Row]:
    return await (await connection.execute(statement(name), values)).fetchall()


def _key_values(draft: KeyDraft) -> Row:
    return {
        "tenant_id": draft.tenant_id,
        "id": draft.id,
        "display_name": draft.display_name,
        "prefix": draft.prefix,
        "sha256": draft.sha256,
        "roles": [role.value for role in draft.roles],
        "expire_time": draft.expire_time,
        "policies": Jsonb([{"actions": policy.actions, "models": policy.models} for policy in draft.policies]),
        "rotated_from": draft.rotated_from,
    }


def _tenant_values(tenant: Tenant | TenantDraft) -> Row:
    return {
        "id": tenant.id,
        "display_name": tenant.display_name,
        "tier": tenant.tier,
        "metadata": Jsonb(dict(tenant.metadata)),
        "isolation": tenant.isolation.value,
    }


def policies_of(row: Row) -> tuple[ResourcePolicy, ...]:
    """The policies of a row of keys."""
    return tuple(
        ResourcePolicy(tuple(Action(action) for action in policy["actions"]), tuple(policy["models"]))
        for policy in row["policies"]
    )


def _tenant(row: Row) -> Tenant:
    return Tenant(
        id=row["id"],
        display_name=row["display_name"],
        status=TenantStatus(row["status"]),
        tier=row["tier"],
        metadata=row["metadata"],
        isolation=Isolation(row["isolation"]),
        create_time=row["created_at"].astimezone(UTC),
        update_time=row["updated_at"].astimezone(UTC),
    )


def _api_key(row: Row) -> ApiKey:
    return ApiKey(
        id=str(row["id"]),
        tenant_id=row["tenant_id"],
        display_name=row["display_name"],
        prefix=row["prefix"],
        sha256=bytes(row["key_sha256"]),
        roles=tuple(Role(role) for role in row["roles"]),
        create_time=row["created_at"].astimezone(UTC),
        expire_time=_instant(row["expires_at"]),
        revoke_time=_instant(row["revoked_at"]),
        policies=policies_of(row),
        last_use_time=_instant(row["last_used_at"]),
        rotated_from=row["rotated_from"],
    )


def _instant(value: datetime | None) -> datetime | None:
    return value.astimezone(UTC) if value is not None else None
