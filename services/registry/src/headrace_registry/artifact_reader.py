"""Reads the bytes of a version's files, for whoever may."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter

from headrace_common import catalogue
from headrace_common.errors import ModelError, StorageError
from headrace_registry.field_rules import invalid, required
from headrace_registry.models import Version, VersionFile
from headrace_registry.segments import SegmentStore
from headrace_registry.store import RegistryStore


class ArtifactReader:
    """Finds files and streams them; bytes leave only after their digest was checked."""

    def __init__(self, *, store: RegistryStore, segments: SegmentStore, registry: CollectorRegistry) -> None:
        self._store = store
        self._segments = segments
        self._sent = Counter(
            "headrace_registry_download_bytes_total", "Bytes of artefacts that were sent.", registry=registry
        )

    def file_of(self, version: Version, path: str) -> VersionFile:
        """The file at `path`; an empty one means the only file.

        Raises:
            HeadraceError: MODEL_FILE_NOT_FOUND (NOT_FOUND); FIELD_REQUIRED (INVALID_ARGUMENT) where there are several.
        """
        if not path:
            if len(version.files) != 1:
                raise required("path")
            return version.files[0]
        for file in version.files:
            if file.path == path:
                return file
        raise ModelError(
            f"path names no file of version {version.version} of model '{version.model}'",
            entry=catalogue.MODEL_FILE_NOT_FOUND,
            context={"model": version.model, "version": version.version},
            field="path",
        )

    async def read(self, tenant_id: str, file: VersionFile, *, offset: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `offset` on, in parts of at most 1 MiB.

        Raises:
            HeadraceError: FIELD_INVALID (INVALID_ARGUMENT): `offset` is outside of the file; STORAGE_UNAVAILABLE,
                DATABASE_UNAVAILABLE (UNAVAILABLE), OBJECT_NOT_FOUND or OBJECT_CORRUPT (DATA_LOSS).
        """
        if not 0 <= offset <= file.size_bytes:
            raise invalid("offset", f"must be 0 to {file.size_bytes}, the size of the file")
        segments = await self._store.segments(tenant_id, file.sha256)
        if sum(segment.size_bytes for segment in segments) != file.size_bytes:
            raise StorageError("the segments of the file are not complete", entry=catalogue.OBJECT_CORRUPT)
        async with aclosing(self._segments.read(tenant_id, segments, offset=offset)) as parts:
            async for part in parts:
                self._sent.inc(len(part))
                yield part
