"""Where uploads lie on disk while they are checked, and how what a killed process left is cleared away."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import structlog

from headrace_common import catalogue
from headrace_common.errors import InitializationError, StorageError

_LOCK_SUFFIX = ".lock"


class UploadSpool:
    """A folder of this process's own inside `directory`, which several processes may share.

    Next to each folder lies a file that its process keeps locked; the lock dies with the process, however it ends, so
    whoever starts next may take the folder away.
    """

    def __init__(self, *, directory: Path) -> None:
        self._directory = directory
        self._name = uuid.uuid4().hex
        self._lock: int | None = None
        self._log = structlog.stdlib.get_logger("upload_spool")

    @property
    def folder(self) -> Path:
        """This process's folder."""
        return self._directory / self._name

    def open(self) -> int:
        """Clears what dead processes left, then makes the folder (0700). Blocking.

        Returns:
            How many folders were cleared.

        Raises:
            InitializationError: INITIALIZATION_FAILED: the folder can't be made.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            cleared = self._clear_abandoned()
            # Locked before the folder is there: a folder without a locked file next to it is abandoned.
            self._lock = _locked(self._lock_file(self._name))
            self.folder.mkdir(mode=0o700)
        except OSError as error:
            self._log.exception("the upload folder can't be used", directory=str(self._directory))
            raise InitializationError(
                "the folder for uploads can't be used; set HEADRACE_REGISTRY_UPLOAD_DIR or HEADRACE_STATE_DIR",
                entry=catalogue.INITIALIZATION_FAILED,
            ) from error
        return cleared

    def close(self) -> None:
        """Removes the folder. Blocking; safe to call twice."""
        if self._lock is None:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock_file(self._name).unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None

    @contextmanager
    def file(self) -> Generator[tuple[int, Path]]:
        """An empty file, open for writing, that is gone afterwards: its descriptor and its path.

        Raises:
            StorageError: DISK_FULL (RESOURCE_EXHAUSTED) or STORAGE_FAILED (INTERNAL).
        """
        try:
            descriptor, name = tempfile.mkstemp(dir=self.folder)
        except OSError as error:
            raise spool_error(error) from None
        path = Path(name)
        try:
            yield descriptor, path
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def _clear_abandoned(self) -> int:
        cleared = 0
        for folder in [path for path in self._directory.iterdir() if path.is_dir()]:
            lock_file = self._lock_file(folder.name)
            lock = _locked(lock_file)
            if lock is None:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            lock_file.unlink(missing_ok=True)
            os.close(lock)
            cleared += 1
        if cleared:
            self._log.info("abandoned uploads cleared", folders=cleared)
        return cleared

    def _lock_file(self, name: str) -> Path:
        return self._directory / (name + _LOCK_SUFFIX)


def spool_error(error: OSError) -> StorageError:
    """What a failure of the service's own disk looks like to a caller."""
    structlog.stdlib.get_logger("upload_spool").error("the upload folder can't be written", exc_info=error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError("the registry has no space left for the upload", entry=catalogue.DISK_FULL)
    return StorageError("the registry can't keep the upload", entry=catalogue.STORAGE_FAILED)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock, or None where somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
