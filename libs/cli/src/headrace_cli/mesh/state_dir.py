"""The folder that holds everything one mesh keeps, locked while a mesh runs on it."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from pathlib import Path

from headrace_cli.mesh.failure import MeshError

_PRIVATE = 0o700


class StateDirBusyError(MeshError):
    """Another mesh runs on the folder."""

    def __init__(self, path: Path, pid: int | None) -> None:
        owner = f"process {pid}" if pid else "another process"
        super().__init__(f"a mesh already runs on {path} ({owner}); stop it, or give this one a --state-dir of its own")
        self.path = path
        self.pid = pid


class StateDirError(MeshError):
    """The folder can't be made or written."""


class StateDir:
    """Paths under the state directory, and the lock on it.

    The lock is the kernel's (`flock`), so it never outlives the process that holds it, however that ends. Children
    don't inherit it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    @property
    def secrets(self) -> Path:
        """Keys and tokens; only its owner may look inside."""
        return self.path / "secrets"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.path / "logs"

    @property
    def ready(self) -> Path:
        """Where services write their ready files."""
        return self.path / "ready"

    @property
    def storage(self) -> Path:
        """Artefacts, when they are not kept elsewhere."""
        return self.path / "storage"

    @property
    def mesh_file(self) -> Path:
        """How to reach the running mesh; the other commands find it here."""
        return self.path / "mesh.json"

    @property
    def control_socket(self) -> Path:
        """Where the supervisor takes requests; only its owner may look inside the folder."""
        return self.ready / "control.sock"

    def service(self, name: str) -> Path:
        """The folder that belongs to one process."""
        return self.path / "services" / name

    @property
    def identity(self) -> str:
        """Tells this folder from an earlier one at the same path, for what has to be kept elsewhere."""
        return (self.path / "identity").read_text().strip()

    def open(self) -> None:
        """Make the folders and take the lock.

        Raises:
            StateDirBusyError: another process holds the lock.
            StateDirError: the folder can't be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            for folder in (self.secrets, self.logs, self.ready, self.storage, self.path / "services"):
                folder.mkdir(mode=_PRIVATE, exist_ok=True)
            identity = self.path / "identity"
            if not identity.exists():
                identity.write_text(uuid.uuid4().hex + "\n")
        except OSError as error:
            self.close()
            where = error.filename or self.path
            raise StateDirError(f"the state directory can't be used: {error.strerror}: {where}") from error

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _owner(lock)
            os.close(lock)
            raise StateDirBusyError(self.path, pid) from error
        self._lock = lock
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps({"pid": os.getpid()}).encode(), 0)


def _owner(lock: int) -> int | None:
    try:
        return int(json.loads(os.pread(lock, 256, 0))["pid"])
    except (ValueError, KeyError, TypeError):
        return None
