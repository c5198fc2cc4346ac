"""Folders that only one process uses, and that somebody removes whatever happens to it."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from headrace_runner.artifacts.file_lock import FileLock, try_lock

_PREFIX = "headrace-llamacpp-"
_LOCK = "lock"
# What is younger may belong to a process that has not locked it yet.
_AGE_MIN_S = 60.0
# A socket's path has 107 bytes at most.
_BASE_BYTES_MAX = 107 - len(_PREFIX) - 24


class PrivateFolder:
    """A new folder that only this user may enter, locked until it is removed. Free to be swept once this process ends.

    Attributes:
        path: Short enough for a socket inside of it.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_base()))
        self._lock: FileLock | None = try_lock(self.path / _LOCK, exclusive=True)

    def remove(self) -> None:
        """Safe to call twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            lock.release()


def sweep(base: Path | None = None, *, age_min_s: float = _AGE_MIN_S) -> int:
    """Removes the folders of processes that were killed; returns how many."""
    removed = 0
    for folder in (base or _base()).glob(_PREFIX + "*"):
        try:
            if time.time() - folder.stat().st_mtime < age_min_s:
                continue
            lock = try_lock(folder / _LOCK, exclusive=True)
        except OSError:
            # It is somebody else's, or has just been removed.
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            removed += 1
    return removed


def _base() -> Path:
    base = tempfile.gettempdir()
    # mkdtemp never takes a folder that exists, so the common one is as good.
    return Path(base if len(base.encode()) <= _BASE_BYTES_MAX else "/tmp")  # noqa: S108
