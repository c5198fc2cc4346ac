"""The folder of a spool, and whose it is."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

_LOCK = "owner"
_UNFINISHED = ".new-"


class SpoolFolder:
    """A folder named by the spool's id. Whoever holds the lock on its file `owner` may write; a dead process does not.

    Attributes:
        id: The spool's (UUID).
        gateway_id: The process that made it.
    """

    def __init__(self, *, path: Path, descriptor: int, gateway_id: str) -> None:
        self.id = path.name
        self.path = path
        self.gateway_id = gateway_id
        self._descriptor = descriptor

    @classmethod
    def new(cls, parent: Path, *, gateway_id: str) -> SpoolFolder:
        """Makes a folder and takes it.

        Raises:
            OSError: `parent` can't be written to.
        """
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = str(uuid.uuid4())
        unfinished = parent / f"{_UNFINISHED}{name}"
        unfinished.mkdir(mode=0o700)
        descriptor = os.open(unfinished / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, gateway_id.encode())
        # By this name others see it, and by now they can't take it.
        path = unfinished.rename(parent / name)
        return cls(path=path, descriptor=descriptor, gateway_id=gateway_id)

    @classmethod
    def take(cls, path: Path) -> SpoolFolder | None:
        """Takes the folder of a process that has ended; None where its process lives, or another one took it.

        Raises:
            OSError: It can't be read.
        """
        try:
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have emptied and removed it just before.
            if os.fstat(descriptor).st_nlink:
                gateway_id = os.read(descriptor, 1_024).decode(errors="replace")
                return cls(path=path, descriptor=descriptor, gateway_id=gateway_id)
        except BlockingIOError:
            pass
        os.close(descriptor)
        return None

    def remove(self) -> None:
        """Removes the folder and what is in it."""
        for path in self.path.iterdir():
            if path.name != _LOCK:
                path.unlink(missing_ok=True)
        # The lock goes last: what a death in the middle leaves is found again.
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Lets others take it. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def abandoned(parent: Path, *, unread: Callable[[Path, OSError], None] | None = None) -> list[SpoolFolder]:
    """Takes every folder whose process has ended; `unread` hears of those that can't be read.

    Raises:
        OSError: The parent can't be read.
    """
    taken: list[SpoolFolder] = []
    if not parent.is_dir():
        return taken
    for path in sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            folder = SpoolFolder.take(path)
        except OSError as error:
            if unread is not None:
                unread(path, error)
            continue
        if folder is not None:
            taken.append(folder)
    return taken
