"""Locks between the runner processes of one host, free again when their holder dies."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

_POLL_S = 0.02
_POLL_MAX_S = 0.5


class FileLock:
    """A held lock. Its file stays: removing it would let two processes lock different files of one name."""

    def __init__(self, *, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Safe to call twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def try_lock(path: Path, *, exclusive: bool) -> FileLock | None:
    """Locks at once, or returns None when another holder is in the way."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return FileLock(descriptor=descriptor)


async def lock(path: Path, *, exclusive: bool) -> FileLock:
    """Waits for the lock without holding a thread; cancelling stops the waiting."""
    pause_s = _POLL_S
    while (held := try_lock(path, exclusive=exclusive)) is None:
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _POLL_MAX_S)
    return held
