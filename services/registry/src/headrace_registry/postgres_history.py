"""The numbered history of versions, read from PostgreSQL in the service's own scope."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_common.postgres import Connection, Database
from headrace_common.revision_feed import FeedHead
from headrace_registry.catalog_history import Change, Snapshot
from headrace_registry.postgres_store import version_from_row
from headrace_registry.statements import statement

CHANNEL = "registry_catalog"
"""Where each committed change is announced; the database's triggers do that."""


class PostgresCatalogHistory:
    """The `CatalogHistory` of a running mesh."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def head(self) -> FeedHead:
        async with self._database.service() as connection:
            return await _head(connection)

    async def changes(self, *, after_revision: int, limit: int) -> Sequence[Change]:
        values = {"after_revision": after_revision, "limit": limit}
        async with self._database.service() as connection:
            rows = await (await connection.execute(statement("feed_changes"), values)).fetchall()
        return [Change(revision=row["revision"], version=version_from_row(row)) for row in rows]

    async def snapshot(self) -> Snapshot:
        async with self._database.service(snapshot=True) as connection:
            head = await _head(connection)
            rows = await (await connection.execute(statement("feed_snapshot"))).fetchall()
        return Snapshot(head=head, versions=[version_from_row(row) for row in rows])


async def _head(connection: Connection) -> FeedHead:
    row = await (await connection.execute(statement("feed_head"))).fetchone()
    # The migration made the row, and the role may not delete it.
    assert row is not None
    return FeedHead(epoch=row["epoch"], revision=row["revision"], compacted=row["compacted"])
