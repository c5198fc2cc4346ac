"""Takes an upload from its stream to a registered version: checked, inspected, stored, then visible all at once."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.registry.v1.manifest_pb2 import ARTIFACT_FORMAT_GGUF
from headrace.registry.v1.models_pb2 import UploadVersionRequest
from headrace_common import catalogue
from headrace_common.errors import DeadlineError, HeadraceError, ModelError
from headrace_registry.artifact_format import FILE_NAMES, HEAD_BYTES, recognise
from headrace_registry.inspection import Inspector
from headrace_registry.manifest import check_stated, merged
from headrace_registry.models import Content, DraftFile, Segment, Version, VersionDraft, version_conflict
from headrace_registry.segments import SegmentStore
from headrace_registry.store import RegistryStore
from headrace_registry.upload import Announcement, Piece, Upload
from headrace_registry.upload_places import UploadPlaces
from headrace_registry.upload_spool import UploadSpool, spool_error

T = TypeVar("T")

_PUTS_AT_ONCE = 2
_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """Bounds of uploads: bytes of one file, uploads at once, seconds between two messages."""

    bytes_max: int
    concurrent_max: int
    idle_s: float


class Uploads:
    """Receives uploads. Each holds at most two segments in memory and its file on disk, until it ends in any way."""

    def __init__(
        self,
        *,
        store: RegistryStore,
        segments: SegmentStore,
        spool: UploadSpool,
        inspector: Inspector,
        limits: UploadLimits,
        registry: CollectorRegistry,
    ) -> None:
        self._store = store
        self._segments = segments
        self._spool = spool
        self._inspector = inspector
        self._limits = limits
        self._places = UploadPlaces(limit=limits.concurrent_max)
        self._metrics = _Metrics(registry)
        self._log = structlog.stdlib.get_logger("uploads")

    async def receive(self, tenant_id: str, messages: AsyncIterator[UploadVersionRequest]) -> Version:
        """The version that an upload registers, or that an equal one registered before.

        An upload that is refused leaves nothing. One that breaks off while its segments are stored (cancelled, the
        store is away, another upload of the number came first) leaves those, for the next try to find.

        Raises:
            HeadraceError: SERVER_OVERLOADED or CONCURRENCY_LIMIT_EXCEEDED (RESOURCE_EXHAUSTED); what `Upload`,
                `check_stated`, `merged` and `Inspector.inspect` raise; CALL_TIMEOUT (DEADLINE_EXCEEDED): the client
                sends nothing;
                MODEL_VERSION_CONFLICT (ALREADY_EXISTS); STORAGE_UNAVAILABLE or DATABASE_UNAVAILABLE (UNAVAILABLE).
        """
        with self._places.taken_by(tenant_id), self._metrics.in_progress.track_inprogress():
            outcome = "CANCELLED"
            started_s = time.monotonic()
            try:
                version = await self._received(tenant_id, messages)
                outcome = "OK"
                return version
            except HeadraceError as error:
                outcome = error.reason
                raise
            finally:
                self._metrics.uploads.labels(outcome).inc()
                self._metrics.duration.observe(time.monotonic() - started_s)

    async def _received(self, tenant_id: str, messages: AsyncIterator[UploadVersionRequest]) -> Version:
        upload = Upload(upload_bytes_max=self._limits.bytes_max)
        # The header alone can refuse an upload, before any byte is kept.
        first = await self._next(messages)
        if first is not None:
            upload.accept(first)
        announced = upload.announced
        check_stated(announced.stated)
        await self._refuse_known_conflict(tenant_id, announced)
        with ExitStack() as spooled:
            files = [spooled.enter_context(self._spool.file()) for _ in announced.files]
            descriptors = [descriptor for descriptor, _ in files]
            contents = await self._spooled(upload, messages, descriptors)
            draft = await self._inspected(tenant_id, announced, contents, files[0][1])
            # Whatever can be refused is refused by now: the object store gets only what is going to be a version.
            await self._refuse_conflict(draft)
            await self._stored(draft, descriptors)
            return await self._registered(draft)

    async def _spooled(
        self, upload: Upload, messages: AsyncIterator[UploadVersionRequest], descriptors: Sequence[int]
    ) -> list[Content]:
        """Receives all of it onto the disk, each file by itself, and checks sizes and digests."""
        while (message := await self._next(messages)) is not None:
            for piece in upload.accept(message):
                await _in_thread(lambda piece=piece: _sealed(upload, piece, descriptors[piece.file]))
        upload.finish()
        return upload.contents()

    async def _stored(self, draft: VersionDraft, descriptors: Sequence[int]) -> None:
        """Puts the segments, two at a time, so that reading one from disk hides behind the other."""
        upcoming = (
            (descriptor, segment, index * file.content.segment_bytes)
            for descriptor, file in zip(descriptors, draft.files, strict=True)
            for index, segment in enumerate(file.content.segments)
        )

        async def put_rest() -> None:
            for descriptor, segment, offset in upcoming:
                data = await _in_thread(partial(_read, descriptor, segment, offset))
                await self._put(draft.tenant_id, segment, data)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_PUTS_AT_ONCE):
                    group.create_task(put_rest())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _put(self, tenant_id: str, segment: Segment, data: bytes) -> None:
        new = await self._segments.put(tenant_id, segment, data)
        self._metrics.received.inc(len(data))
        (self._metrics.new_segments if new else self._metrics.known_segments).inc()

    async def _inspected(
        self, tenant_id: str, announced: Announcement, contents: Sequence[Content], path: Path
    ) -> VersionDraft:
        artifact_format = recognise(await asyncio.to_thread(_head, path))
        file_name = announced.files[0].path or FILE_NAMES[artifact_format]
        names = [file_name, *(file.path for file in announced.files[1:])]
        if artifact_format == ARTIFACT_FORMAT_GGUF:
            inferred = await self._inspector.inspect_gguf(path, file_name=file_name)
        else:
            inferred = await self._inspector.inspect(path, file_name=file_name)
        return VersionDraft(
            tenant_id=tenant_id,
            model=announced.model,
            version=announced.version,
            uid=str(uuid.uuid4()),
            manifest=merged(
                stated=announced.stated, artifact_format=artifact_format, inferred=inferred, files=names[1:]
            ),
            stated_manifest=announced.stated.SerializeToString(deterministic=True),
            files=[DraftFile(path=name, content=content) for name, content in zip(names, contents, strict=True)],
        )

    async def _registered(self, draft: VersionDraft) -> Version:
        version, created = await self._store.register_version(draft)
        if created:
            self._log.info(
                "version registered",
                model=version.model,
                version=version.version,
                uid=version.uid,
                bytes=sum(file.content.size_bytes for file in draft.files),
                segments=sum(len(file.content.segments) for file in draft.files),
            )
        return version

    async def _refuse_known_conflict(self, tenant_id: str, announced: Announcement) -> None:
        """Spares the bytes of an upload that can't succeed."""
        known = await self._known(tenant_id, announced.model, announced.version)
        if known is not None and sorted(file.sha256 for file in known.files) != sorted(
            file.sha256 for file in announced.files
        ):
            raise version_conflict(announced.model, announced.version)

    async def _refuse_conflict(self, draft: VersionDraft) -> None:
        """Registration checks again, since another upload may come first."""
        known = await self._known(draft.tenant_id, draft.model, draft.version)
        if known is not None and not draft.same_as(known):
            raise version_conflict(draft.model, draft.version)

    async def _known(self, tenant_id: str, model: str, version: int) -> Version | None:
        """The version with the wanted number, if one was wanted and it exists."""
        if not version:
            return None
        try:
            return await self._store.version(tenant_id, model, version)
        except ModelError:
            return None

    async def _next(self, messages: AsyncIterator[UploadVersionRequest]) -> UploadVersionRequest | None:
        """The next message; None at the end."""
        limit = asyncio.timeout(self._limits.idle_s)
        try:
            async with limit:
                return await anext(messages, None)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineError(
                f"the upload sent nothing for {self._limits.idle_s:g} s",
                entry=catalogue.CALL_TIMEOUT,
                context={"timeout_s": f"{self._limits.idle_s:g}"},
            ) from None


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_progress = Gauge("headrace_registry_uploads_in_progress", "Uploads being received.", registry=registry)
        self.uploads = Counter(
            "headrace_registry_uploads_total", "Uploads that ended, by outcome.", ["outcome"], registry=registry
        )
        self.duration = Histogram(
            "headrace_registry_upload_seconds", "Time that an upload took.", buckets=_BUCKETS_S, registry=registry
        )
        self.received = Counter(
            "headrace_registry_upload_bytes_total",
            "Bytes of artefacts that were received and stored.",
            registry=registry,
        )
        segments = Counter(
            "headrace_registry_segments_total",
            "Segments of uploads: new, or known because the tenant had the same bytes.",
            ["kind"],
            registry=registry,
        )
        self.new_segments = segments.labels("new")
        self.known_segments = segments.labels("known")


async def _in_thread(work: Callable[[], T]) -> T:
    """Runs in a thread and, cancelled or not, leaves only when the thread is done: it uses a file of the caller's."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    finally:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})


def _sealed(upload: Upload, piece: Piece, descriptor: int) -> Segment:
    """Hashes a segment and appends it to the file on disk."""
    try:
        view = memoryview(piece.data)
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise spool_error(error) from None
    return upload.seal(piece)


def _read(descriptor: int, segment: Segment, offset: int) -> bytes:
    """A segment of the file on disk."""
    try:
        return os.pread(descriptor, segment.size_bytes, offset)
    except OSError as error:
        raise spool_error(error) from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
