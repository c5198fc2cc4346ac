"""Models and versions in PostgreSQL. Each method is one transaction in the scope of the tenant that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common.postgres import Connection, Database
from headrace_registry.models import (
    Content,
    Model,
    ModelDraft,
    Segment,
    Version,
    VersionDraft,
    VersionFile,
    VersionState,
    model_not_found,
    version_conflict,
    version_not_found,
)
from headrace_registry.statements import statement

Row = Mapping[str, Any]


class PostgresRegistryStore:
    """The `RegistryStore` of a running mesh."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def create_model(self, draft: ModelDraft) -> tuple[Model, bool]:
        async with self._database.tenant(draft.tenant_id) as connection:
            row = await _one(connection, "insert_model", _model_values(draft))
            created = row is not None
            if row is None:
                row = await _one(connection, "get_model", {"tenant_id": draft.tenant_id, "name": draft.name})
            # A transaction that inserted the name has committed, or the insert above would have waited for it.
            assert row is not None
            return _model(row), created

    async def model(self, tenant_id: str, name: str) -> Model | None:
        async with self._database.tenant(tenant_id) as connection:
            row = await _one(connection, "get_model", {"tenant_id": tenant_id, "name": name})
        return _model(row) if row is not None else None

    async def models(self, tenant_id: str, *, after_name: str, limit: int) -> Sequence[Model]:
        values = {"tenant_id": tenant_id, "after_name": after_name, "limit": limit}
        async with self._database.tenant(tenant_id) as connection:
            rows = await _all(connection, "list_models", values)
        return [_model(row) for row in rows]

    async def register_version(self, draft: VersionDraft) -> tuple[Version, bool]:
        model = {"tenant_id": draft.tenant_id, "model": draft.model}
        async with self._database.tenant(draft.tenant_id) as connection:
            await connection.execute(
                statement("insert_model"), _model_values(ModelDraft(tenant_id=draft.tenant_id, name=draft.model))
            )
            await connection.execute(statement("lock_model"), model)
            number = draft.version
            wanted = "get_version" if number else "get_latest_version"
            known = await _one(connection, wanted, {**model, "version": number})
            if known is not None and draft.same_as(version := version_from_row(known)):
                return version, False
            if number and known is not None:
                raise version_conflict(draft.model, number)
            if not number:
                following = await _one(connection, "next_version", model)
                assert following is not None
                number = int(following["version"])
            await self._insert(connection, draft, number)
            row = await _one(connection, "get_version", {**model, "version": number})
            assert row is not None
            return version_from_row(row), True

    async def version(self, tenant_id: str, model: str, version: int) -> Version:
        async with self._database.tenant(tenant_id) as connection:
            return await self._found(connection, tenant_id, model, version)

    async def version_by_uid(self, tenant_id: str, uid: str) -> Version | None:
        if not _is_uuid(uid):
            return None
        async with self._database.tenant(tenant_id) as connection:
            row = await _one(connection, "get_version_by_uid", {"tenant_id": tenant_id, "uid": uid})
        return version_from_row(row) if row is not None else None

    async def versions(self, tenant_id: str, model: str, *, before: int, limit: int) -> Sequence[Version]:
        values = {"tenant_id": tenant_id, "model": model, "before": before, "limit": limit}
        async with self._database.tenant(tenant_id) as connection:
            if await _one(connection, "model_exists", values) is None:
                raise model_not_found(model)
            rows = await _all(connection, "list_versions", values)
        return [version_from_row(row) for row in rows]

    async def archive_version(self, tenant_id: str, model: str, version: int) -> Version:
        values = {"tenant_id": tenant_id, "model": model, "version": version}
        async with self._database.tenant(tenant_id) as connection:
            await connection.execute(statement("archive_version"), values)
            return await self._found(connection, tenant_id, model, version)

    async def segments(self, tenant_id: str, file_sha256: str) -> Sequence[Segment]:
        values = {"tenant_id": tenant_id, "file_sha256": bytes.fromhex(file_sha256)}
        async with self._database.tenant(tenant_id) as connection:
            rows = await _all(connection, "file_segments", values)
        return [Segment(sha256=bytes(row["sha256"]), size_bytes=row["size_bytes"]) for row in rows]

    async def _found(self, connection: Connection, tenant_id: str, model: str, version: int) -> Version:
        values = {"tenant_id": tenant_id, "model": model, "version": version}
        row = await _one(connection, "get_version" if version else "get_latest_version", values)
        if row is not None:
            return version_from_row(row)
        if await _one(connection, "model_exists", values) is None:
            raise model_not_found(model)
        raise version_not_found(model, version)

    async def _insert(self, connection: Connection, draft: VersionDraft, number: int) -> None:
        """Contents first, the version next: its trigger locks the feed's counter, so nothing may wait after it."""
        # In one order for all, so that two uploads with the same files can't wait for each other.
        for file in sorted(draft.files, key=lambda file: file.content.sha256):
            await _insert_content(connection, draft.tenant_id, file.content)
        await connection.execute(
            statement("insert_version"),
            {
                "tenant_id": draft.tenant_id,
                "model": draft.model,
                "version": number,
                "uid": draft.uid,
                "manifest": draft.manifest.SerializeToString(deterministic=True),
                "stated_manifest": draft.stated_manifest,
            },
        )
        for file in draft.files:
            await connection.execute(
                statement("insert_version_file"),
                {
                    "tenant_id": draft.tenant_id,
                    "uid": draft.uid,
                    "path": file.path,
                    "sha256": file.content.sha256,
                },
            )


async def _insert_content(connection: Connection, tenant_id: str, content: Content) -> None:
    await connection.execute(
        statement("insert_content"),
        {
            "tenant_id": tenant_id,
            "sha256": content.sha256,
            "size_bytes": content.size_bytes,
            "segment_bytes": content.segment_bytes,
        },
    )
    await connection.execute(
        statement("insert_segments"),
        {
            "tenant_id": tenant_id,
            "file_sha256": content.sha256,
            "digests": [segment.sha256 for segment in content.segments],
            "sizes": [segment.size_bytes for segment in content.segments],
        },
    )


async def _one(connection: Connection, name: str, values: Row) -> Row | None:
    return await (await connection.execute(statement(name), values)).fetchone()


async def _all(connection: Connection, name: str, values: Row) -> Sequence[Row]:
    return await (await connection.execute(statement(name), values)).fetchall()


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _model_values(draft: ModelDraft) -> Row:
    return {
        "tenant_id": draft.tenant_id,
        "name": draft.name,
        "description": draft.description,
        "metadata": Jsonb(dict(draft.metadata)),
    }


def _model(row: Row) -> Model:
    return Model(
        tenant_id=row["tenant_id"],
        name=row["name"],
        description=row["description"],
        metadata=row["metadata"],
        create_time=row["created_at"].astimezone(UTC),
        latest_version=row["latest_version"],
    )


def version_from_row(row: Row) -> Version:
    """The version in a row of any statement that selects whole versions."""
    archived_at = row["archived_at"]
    return Version(
        tenant_id=row["tenant_id"],
        model=row["model"],
        version=row["version"],
        uid=str(row["uid"]),
        state=VersionState(row["state"]),
        manifest=Manifest.FromString(bytes(row["manifest"])),
        stated_manifest=bytes(row["stated_manifest"]),
        files=_files(row["files"]),
        create_time=row["created_at"].astimezone(UTC),
        archive_time=archived_at.astimezone(UTC) if archived_at is not None else None,
    )


def _files(aggregated: list[dict[str, Any]] | None) -> list[VersionFile]:
    return [
        VersionFile(path=file["path"], size_bytes=file["size_bytes"], sha256=file["sha256"])
        for file in aggregated or []
    ]
