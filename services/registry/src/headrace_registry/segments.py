"""Segments in the object store: named by tenant and digest, checked whenever they are read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import TypeVar

import structlog

from headrace_common import catalogue
from headrace_common.errors import StorageError, StorageUnavailable
from headrace_common.object_store import ObjectStore
from headrace_registry.models import Segment

T = TypeVar("T")

PART_BYTES_MAX = 1 << 20
"""Most bytes of one message of a download."""


def segment_key(tenant_id: str, sha256: bytes) -> str:
    """Where a segment lies. The tenant is part of the key: nobody can find out what another tenant has stored."""
    name = sha256.hex()
    return f"tenants/{tenant_id}/segments/{name[:2]}/{name}"


class SegmentStore:
    """Puts and gets segments. Safe for concurrent use.

    Args:
        objects: The object store.
        timeout_s: How long one operation may take; after that the store counts as unavailable.
    """

    def __init__(self, *, objects: ObjectStore, timeout_s: float) -> None:
        self._objects = objects
        self._timeout_s = timeout_s
        self._log = structlog.stdlib.get_logger("segments")

    async def put(self, tenant_id: str, segment: Segment, data: bytes) -> bool:
        """Stores a segment; False where the tenant had it already. Idempotent.

        What lies under the name is read once and replaced unless it has the digest: an upload of the same bytes heals
        a damaged object.

        Raises:
            StorageError: STORAGE_UNAVAILABLE (UNAVAILABLE), DISK_FULL, STORAGE_DENIED.
        """
        key = segment_key(tenant_id, segment.sha256)
        if await self._timed(self._objects.put_if_absent(key, data)):
            return True
        if await self._timed(self._stored_sha256(key)) == segment.sha256:
            return False
        self._log.error("damaged segment replaced", key=key)
        await self._timed(self._objects.replace(key, data))
        return True

    async def get(self, tenant_id: str, segment: Segment) -> bytes:
        """The bytes of a segment, whose digest was checked.

        Raises:
            StorageError: STORAGE_UNAVAILABLE (UNAVAILABLE), OBJECT_NOT_FOUND, OBJECT_CORRUPT (DATA_LOSS).
        """
        key = segment_key(tenant_id, segment.sha256)
        data = await self._timed(self._objects.get(key))
        actual = await asyncio.to_thread(_sha256, data)
        if actual != segment.sha256:
            self._log.error("segment is corrupt", key=key, actual=actual.hex(), bytes=len(data))
            raise StorageError(
                "a stored segment does not have its SHA-256",
                entry=catalogue.OBJECT_CORRUPT,
                context={"expected": segment.sha256.hex(), "actual": actual.hex()},
            )
        return data

    async def read(self, tenant_id: str, segments: Sequence[Segment], *, offset: int) -> AsyncGenerator[bytes, None]:
        """The bytes of the segments from `offset` on, in parts of at most 1 MiB; none where it is past the end.

        Holds two segments: while one is being sent, the next one is fetched.
        """
        wanted: list[Segment] = []
        skipped = 0
        position = 0
        for segment in segments:
            if position + segment.size_bytes > offset:
                if not wanted:
                    skipped = offset - position
                wanted.append(segment)
            position += segment.size_bytes
        upcoming: asyncio.Task[bytes] | None = None
        try:
            for index, segment in enumerate(wanted):
                data = await (upcoming or self.get(tenant_id, segment))
                upcoming = None
                if index + 1 < len(wanted):
                    upcoming = asyncio.ensure_future(self.get(tenant_id, wanted[index + 1]))
                view = memoryview(data)[skipped:]
                skipped = 0
                for start in range(0, len(view), PART_BYTES_MAX):
                    yield bytes(view[start : start + PART_BYTES_MAX])
        finally:
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.wait({upcoming})
                if not upcoming.cancelled():
                    # Looked at, so that nobody warns of a failure that no reader was left to see.
                    upcoming.exception()

    async def _stored_sha256(self, key: str) -> bytes:
        """The digest of an object, read in pieces: its size is not ours to know."""
        digest = hashlib.sha256()
        async for piece in self._objects.stream(key):
            await asyncio.to_thread(digest.update, piece)
        return digest.digest()

    async def _timed(self, operation: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await operation
        except TimeoutError:
            raise StorageUnavailable(
                f"the object store did not answer within {self._timeout_s:g} s", entry=catalogue.STORAGE_UNAVAILABLE
            ) from None


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
