"""Artefacts on disk, shared by all runner processes of a host that name the same folder.

Layout: `<digest>/` complete artefacts, `<digest>.partial/` downloads, `locks/<digest>.read` and `.write`. Whoever uses
an artefact holds its read lock shared; whoever removes it needs that lock alone. Whoever fetches holds the write lock.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import structlog

from headrace.registry.v1.models_pb2 import ArtifactFile
from headrace_common import catalogue
from headrace_common.errors import StorageError
from headrace_runner.artifacts.digest import artifact_digest, is_intact
from headrace_runner.artifacts.download import ReadFrom, disk_error, download
from headrace_runner.artifacts.eviction import CachedArtifact, choose_evictions
from headrace_runner.artifacts.file_lock import FileLock, lock, try_lock
from headrace_runner.metrics import RunnerMetrics

_LOCKS = "locks"
_PARTIAL = ".partial"
_TRASH = ".trash-"
_TRIES = 3


class ArtifactLease:
    """An artefact that stays on disk until the lease is released.

    Attributes:
        folder: The artefact's folder; its digests have been checked.
    """

    def __init__(self, *, folder: Path, read_lock: FileLock) -> None:
        self.folder = folder
        self._read_lock = read_lock

    def release(self) -> None:
        """Safe to call twice."""
        self._read_lock.release()


class DiskCache:
    """Keeps artefacts by digest, least recently used ones leave first.

    Args:
        root: Folder of the cache; made when absent.
        bytes_max: Size that the cache keeps to as far as artefacts in use allow.
    """

    def __init__(self, *, root: Path, bytes_max: int, metrics: RunnerMetrics) -> None:
        self._root = root
        self._bytes_max = bytes_max
        self._metrics = metrics
        self._log = structlog.stdlib.get_logger("artifacts")

    def open(self) -> None:
        """Makes the folder and removes what a killed process left half removed. Blocks.

        Raises:
            StorageError: STORAGE_UNAVAILABLE (UNAVAILABLE) or DISK_FULL: the folder can't be used.
        """
        try:
            (self._root / _LOCKS).mkdir(parents=True, exist_ok=True)
            for path in self._root.iterdir():
                if path.name.startswith(_TRASH):
                    shutil.rmtree(path, ignore_errors=True)
        except OSError as error:
            self._log.error("can't use the artefact cache", error=str(error))
            raise disk_error(error) from None

    async def lease(self, files: Sequence[ArtifactFile], read_from: ReadFrom) -> ArtifactLease:
        """Makes sure that an artefact is on disk, intact, and keeps it there.

        One process of the host fetches it, others wait. Cancelling leaves a partial download for the next try.

        Raises:
            HeadraceError: MODEL_FILE_INVALID, OBJECT_CORRUPT, DISK_FULL, STORAGE_UNAVAILABLE, or what the source
                raised.
        """
        try:
            return await self._lease(files, read_from)
        except OSError as error:
            self._log.error("can't use the artefact cache", error=str(error))
            raise disk_error(error) from None

    async def _lease(self, files: Sequence[ArtifactFile], read_from: ReadFrom) -> ArtifactLease:
        digest = artifact_digest(files)
        folder = self._root / digest
        fetched = False
        for _ in range(_TRIES):
            lease = ArtifactLease(folder=folder, read_lock=await lock(self._lock_path(digest, "read"), exclusive=False))
            try:
                if (fetched and folder.is_dir()) or await asyncio.to_thread(is_intact, folder, files):
                    os.utime(folder)
                    return lease
            except BaseException:
                lease.release()
                raise
            lease.release()
            await self._fetch(digest, files, read_from)
            fetched = True
        raise StorageError("the model's files vanish from the runner's cache", entry=catalogue.STORAGE_FAILED)

    async def _fetch(self, digest: str, files: Sequence[ArtifactFile], read_from: ReadFrom) -> None:
        write_lock = await lock(self._lock_path(digest, "write"), exclusive=True)
        try:
            folder = self._root / digest
            if await asyncio.to_thread(is_intact, folder, files):
                return
            if folder.exists():
                self._log.warning("a cached artefact is corrupt; fetching it again", digest=digest)
                await asyncio.to_thread(self._remove, folder)
            await asyncio.to_thread(self._make_room, sum(file.size_bytes for file in files), digest)
            staging = self._root / (digest + _PARTIAL)
            for file in files:
                await download(file, staging / file.path, read_from)
                self._metrics.downloaded_bytes.inc(file.size_bytes)
            staging.rename(folder)
        finally:
            write_lock.release()

    def _make_room(self, needed_bytes: int, digest: str) -> None:
        if needed_bytes > self._bytes_max:
            raise StorageError(
                f"the model has {needed_bytes} bytes, the runner's artefact cache takes {self._bytes_max}",
                entry=catalogue.DISK_FULL,
            )
        cached = [artifact for artifact in self._cached() if artifact.name.removesuffix(_PARTIAL) != digest]
        kept_bytes = needed_bytes
        while chosen := choose_evictions(cached, kept_bytes, self._bytes_max):
            for artifact in chosen:
                cached.remove(artifact)
                if not self._evict(artifact):
                    kept_bytes += artifact.size_bytes
        self._metrics.disk_cache_bytes.set(sum(artifact.size_bytes for artifact in self._cached()) + needed_bytes)

    def _evict(self, artifact: CachedArtifact) -> bool:
        """Removes an artefact unless some process uses or fetches it; returns whether it is gone."""
        kind = "write" if artifact.name.endswith(_PARTIAL) else "read"
        alone = try_lock(self._lock_path(artifact.name.removesuffix(_PARTIAL), kind), exclusive=True)
        if alone is None:
            return False
        try:
            self._remove(self._root / artifact.name)
        finally:
            alone.release()
        self._metrics.disk_evictions.inc()
        return True

    def _remove(self, folder: Path) -> None:
        """Takes a folder out of the cache at once, then deletes it; open files of it stay readable."""
        trash = self._root / f"{_TRASH}{uuid.uuid4().hex}"
        try:
            folder.rename(trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    def _cached(self) -> list[CachedArtifact]:
        cached: list[CachedArtifact] = []
        for folder in self._root.iterdir():
            if folder.name == _LOCKS or folder.name.startswith(_TRASH):
                continue
            try:
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                cached.append(CachedArtifact(folder.name, size, folder.stat().st_mtime))
            except FileNotFoundError:
                # Another process has just removed it.
                continue
        return cached

    def _lock_path(self, digest: str, kind: str) -> Path:
        return self._root / _LOCKS / f"{digest}.{kind}"
