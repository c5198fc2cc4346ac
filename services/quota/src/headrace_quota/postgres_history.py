"""The numbered history of tenants and keys, read from PostgreSQL in the service's own scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from headrace_common.features import switches
from headrace_common.postgres import Connection, Database
from headrace_common.revision_feed import FeedHead
from headrace_quota.api_keys import Role
from headrace_quota.limit_rows import limit_from_row
from headrace_quota.postgres_store import policies_of
from headrace_quota.principal_history import Change, KeyState, Snapshot, TenantState
from headrace_quota.statements import statement
from headrace_quota.tenants import Isolation, TenantStatus

CHANNEL = "quota_principals"
"""Where each committed change is announced; the database's triggers do that."""

Row = Mapping[str, Any]


class PostgresPrincipalHistory:
    """The `PrincipalHistory` of a running mesh.

    Args:
        database: The service's pool.
        dead_keys_shown_s: For how long after its end a key still belongs to snapshots.
    """

    def __init__(self, *, database: Database, dead_keys_shown_s: float) -> None:
        self._database = database
        self._dead_keys_shown_s = dead_keys_shown_s

    async def head(self) -> FeedHead:
        async with self._database.service() as connection:
            return await _head(connection)

    async def changes(self, *, after_revision: int, limit: int) -> Sequence[Change]:
        values = {"after_revision": after_revision, "limit": limit}
        async with self._database.service() as connection:
            rows = await (await connection.execute(statement("feed_changes"), values)).fetchall()
        return [
            Change(row["revision"], _tenant_state(row) if row["key_id"] is None else _key_state(row)) for row in rows
        ]

    async def snapshot(self) -> Snapshot:
        values = {"dead_keys_shown_s": self._dead_keys_shown_s}
        async with self._database.service(snapshot=True) as connection:
            head = await _head(connection)
            tenants = await (await connection.execute(statement("feed_snapshot_tenants"))).fetchall()
            keys = await (await connection.execute(statement("feed_snapshot_keys"), values)).fetchall()
        return Snapshot(
            head=head,
            tenants=[_tenant_state(row) for row in tenants],
            keys=[_key_state(row) for row in keys],
        )


async def _head(connection: Connection) -> FeedHead:
    row = await (await connection.execute(statement("feed_head"))).fetchone()
    # The migration made the row, and the role may not delete it.
    assert row is not None
    return FeedHead(epoch=row["epoch"], revision=row["revision"], compacted=row["compacted"])


def _tenant_state(row: Row) -> TenantState:
    return TenantState(
        tenant_id=row["tenant_id"],
        status=TenantStatus(row["tenant_status"]),
        tier=row["tenant_tier"],
        limits=tuple(sorted((limit_from_row(held) for held in row["tenant_limits"]), key=lambda limit: limit.key)),
        aggregate_streams=row["tenant_aggregate_streams"],
        features=switches(row["tenant_metadata"]),
        isolation=Isolation(row["tenant_isolation"]),
    )


def _key_state(row: Row) -> KeyState:
    expires_at = row["expires_at"]
    return KeyState(
        key_id=str(row["key_id"]),
        tenant_id=row["tenant_id"],
        sha256=bytes(row["key_sha256"]),
        roles=tuple(Role(role) for role in row["roles"]),
        expire_time=expires_at.astimezone(UTC) if expires_at is not None else None,
        revoked=row["revoked_at"] is not None,
        policies=policies_of(row),
    )
