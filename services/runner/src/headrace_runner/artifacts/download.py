"""Fetches one file of an artefact: resumes after a break, checks while it writes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import structlog

from headrace.registry.v1.models_pb2 import ArtifactFile
from headrace_common import catalogue
from headrace_common.errors import RetryableError, StorageError, StorageUnavailable
from headrace_runner.artifacts.digest import Digest, hash_file

ReadFrom = Callable[[str, int], AsyncGenerator[bytes, None]]
"""Streams a file, named by its path in the artefact, from an offset."""

_TRIES_WITHOUT_PROGRESS = 5


async def download(file: ArtifactFile, target: Path, read_from: ReadFrom) -> None:
    """Fetches a file to `target`, going on where an earlier try ended, also one of another process before.

    Bytes that turn out wrong are thrown away and fetched once more.

    Raises:
        HeadraceError: OBJECT_CORRUPT (DATA_LOSS): wrong bytes twice; DISK_FULL; otherwise what the source raised once
            five tries in a row brought nothing.
    """
    log = structlog.stdlib.get_logger("artifacts")
    try:
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        if await _attempt(file, target, read_from):
            return
        log.warning("downloaded bytes do not have their digest; fetching again", path=file.path, sha256=file.sha256)
        await asyncio.to_thread(target.unlink)
        if await _attempt(file, target, read_from):
            return
        await asyncio.to_thread(target.unlink)
    except OSError as error:
        log.exception("can't write the artefact cache")
        raise disk_error(error) from None
    raise StorageError(
        f"the file '{file.path}' of the model does not have its SHA-256",
        entry=catalogue.OBJECT_CORRUPT,
        context={"expected": file.sha256},
    )


def disk_error(error: OSError) -> StorageError:
    """What a failure of the runner's disk looks like to a caller. A disk may come back: that is worth another try."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError("the runner's disk has no space left for the model", entry=catalogue.DISK_FULL)
    return StorageUnavailable("the runner's artefact cache can't be used")


async def _attempt(file: ArtifactFile, target: Path, read_from: ReadFrom) -> bool:
    """Completes the file from what is there; returns whether its bytes have the digest."""
    summary, offset = await asyncio.to_thread(_resume, target, file.size_bytes)
    failures = 0
    with target.open("ab") as sink:
        while True:
            before = offset
            error: RetryableError | None = None
            try:
                async with aclosing(read_from(file.path, offset)) as parts:
                    async for data in parts:
                        if offset + len(data) > file.size_bytes:
                            return False
                        await asyncio.to_thread(_write, sink.write, summary.update, data)
                        offset += len(data)
            except RetryableError as broken:
                error = broken
            if offset == file.size_bytes:
                sink.flush()
                return summary.hexdigest() == file.sha256
            failures = failures + 1 if offset == before else 1
            error = error or StorageUnavailable(f"the download of '{file.path}' ended before its end")
            if failures >= _TRIES_WITHOUT_PROGRESS:
                raise error
            await asyncio.sleep(error.delay_s(failures))


def _resume(target: Path, size_bytes: int) -> tuple[Digest, int]:
    """Hashes what an earlier try left; a file that is too long starts anew."""
    if target.exists() and target.stat().st_size > size_bytes:
        target.unlink()
    target.touch()
    return hash_file(target, size_bytes)


def _write(write: Callable[[bytes], int], update: Callable[[bytes], None], data: bytes) -> None:
    write(data)
    update(data)
