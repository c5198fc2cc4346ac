"""The unprivileged account that PostgreSQL runs as when the mesh is started by root, and what it can reach."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from headrace_cli.mesh.failure import MeshError

_CANDIDATES = ("headrace", "nobody")


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user and its group."""

    name: str
    uid: int
    gid: int

    def may_enter(self, folder: Path) -> bool:
        """Whether the account may traverse one folder, by its permission bits."""
        status = folder.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)

    def can_reach(self, path: Path) -> bool:
        """Whether the account may traverse every folder above `path`."""
        return all(self.may_enter(folder) for folder in path.resolve().parents)


def unprivileged_account() -> Account | None:
    """The account to drop to; None when the supervisor is not root and PostgreSQL can run as it is.

    Raises:
        MeshError: root, and the machine has none of the accounts.
    """
    if os.geteuid() != 0:
        return None
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise MeshError(
        "PostgreSQL does not run as root, and this machine has no account to run it as: "
        f"add a user named {_CANDIDATES[0]}, or set HEADRACE_POSTGRES_URL to a server of yours"
    )
