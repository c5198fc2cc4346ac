"""Takes an upload from its stream to a registered version: stored, checked, inspected, then visible all at once."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.registry.v1.models_pb2 import UploadVersionRequest
from headrace_common import catalogue
from headrace_common.errors import DeadlineError, HeadraceError, ModelError
from headrace_common.rpc_runtime import AdmissionGate
from headrace_registry.artifact_format import FILE_NAMES, HEAD_BYTES, recognise
from headrace_registry.inspection import Inspector
from headrace_registry.manifest import check_stated, merged
from headrace_registry.models import Content, Segment, Version, VersionDraft, version_conflict
from headrace_registry.segments import SegmentStore
from headrace_registry.store import RegistryStore
from headrace_registry.upload import Announcement, Upload
from headrace_registry.upload_spool import UploadSpool, spool_error

T = TypeVar("T")

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
        self._gate = AdmissionGate(limit=limits.concurrent_max)
        self._metrics = _Metrics(registry)
        self._log = structlog.stdlib.get_logger("uploads")

    async def receive(self, tenant_id: str, messages: AsyncIterator[UploadVersionRequest]) -> Version:
        """The version that an upload registers, or that an equal one registered before.

        Cancelling leaves nothing visible; segments that were stored are found again by the next try.

        Raises:
            HeadraceError: SERVER_OVERLOADED (RESOURCE_EXHAUSTED); what `Upload`, `check_stated`, `merged` and
                `Inspector.inspect` raise; CALL_TIMEOUT (DEADLINE_EXCEEDED): the client sends nothing;
                MODEL_VERSION_CONFLICT (ALREADY_EXISTS); STORAGE_UNAVAILABLE or DATABASE_UNAVAILABLE (UNAVAILABLE).
        """
        self._gate.enter()
        outcome = "CANCELLED"
        started_s = time.monotonic()
        try:
            with self._metrics.in_progress.track_inprogress():
                version = await self._received(tenant_id, messages)
            outcome = "OK"
            return version
        except HeadraceError as error:
            outcome = error.reason
            raise
        finally:
            self._gate.leave()
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
        with self._spool.file() as (descriptor, path):
            content = await self._stored(tenant_id, upload, messages, descriptor)
            return await self._registered(tenant_id, announced, content, path)

    async def _stored(
        self, tenant_id: str, upload: Upload, messages: AsyncIterator[UploadVersionRequest], descriptor: int
    ) -> Content:
        """Stores each segment while the next one arrives."""
        storing: asyncio.Task[None] | None = None
        try:
            while True:
                message = await self._next(messages)
                complete = upload.accept(message) if message is not None else upload.finish()
                for data in complete:
                    segment = await _in_thread(lambda data=data: _sealed(upload, data, descriptor))
                    if storing is not None:
                        await storing
                    storing = asyncio.ensure_future(self._put(tenant_id, segment, data))
                if message is None:
                    break
            content = upload.content()
            if storing is not None:
                await storing
            return content
        finally:
            if storing is not None:
                storing.cancel()
                await asyncio.wait({storing})
                if not storing.cancelled():
                    # Looked at: where the upload failed before, nobody else asks how this ended.
                    storing.exception()

    async def _put(self, tenant_id: str, segment: Segment, data: bytes) -> None:
        new = await self._segments.put(tenant_id, segment, data)
        self._metrics.received.inc(len(data))
        (self._metrics.new_segments if new else self._metrics.known_segments).inc()

    async def _registered(self, tenant_id: str, announced: Announcement, content: Content, path: Path) -> Version:
        artifact_format = recognise(await asyncio.to_thread(_head, path))
        file_name = announced.file_name or FILE_NAMES[artifact_format]
        signature = await self._inspector.inspect(path, file_name=file_name)
        manifest = merged(stated=announced.stated, artifact_format=artifact_format, inferred=signature)
        draft = VersionDraft(
            tenant_id=tenant_id,
            model=announced.model,
            version=announced.version,
            uid=str(uuid.uuid4()),
            manifest=manifest,
            stated_manifest=announced.stated.SerializeToString(deterministic=True),
            path=file_name,
            content=content,
        )
        version, created = await self._store.register_version(draft)
        if created:
            self._log.info(
                "version registered",
                model=version.model,
                version=version.version,
                uid=version.uid,
                bytes=content.size_bytes,
                segments=len(content.segments),
            )
        return version

    async def _refuse_known_conflict(self, tenant_id: str, announced: Announcement) -> None:
        """Spares the bytes of an upload that can't succeed; registration checks again."""
        if not announced.version:
            return
        try:
            known = await self._store.version(tenant_id, announced.model, announced.version)
        except ModelError:
            return
        if [file.sha256 for file in known.files] != [announced.sha256]:
            raise version_conflict(announced.model, announced.version)

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


def _sealed(upload: Upload, data: bytes, descriptor: int) -> Segment:
    """Hashes a segment and appends it to the file on disk."""
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise spool_error(error) from None
    return upload.seal(data)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
