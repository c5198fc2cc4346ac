"""A PostgreSQL server that a test can stop and start again at the same address, with its data."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from support.folders import temporary_root
from support.postgres import _SETTINGS as SETTINGS  # pyright: ignore[reportPrivateUsage]
from support.postgres import _reachable_install as reachable_install  # pyright: ignore[reportPrivateUsage]
from support.processes import HeldPort, Unprivileged, command_as, stop

_START_TIMEOUT_S = 60.0


class RestartablePostgres:
    """One server on one port of its own. `start()` waits until it answers; `stop()` ends all connections at once."""

    def __init__(self, *, install: Path, base: Path, user: Unprivileged) -> None:
        self._install = install
        self._base = base
        self._user = user
        self._port = HeldPort()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://postgres@{self._port.address}/postgres"

    def initialise(self) -> None:
        """Makes the data directory."""
        initdb = [str(self._install / "bin" / "initdb"), "-D", str(self._base / "data"), "-U", "postgres"]
        options = ["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        command = command_as(self._user, [*initdb, *options])
        subprocess.run(command, check=True, capture_output=True, cwd=self._base)

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        postgres = [str(self._install / "bin" / "postgres"), "-D", str(self._base / "data"), "-k", ""]
        argv = [*postgres, "-p", str(self._port.number), *settings]
        self._process = subprocess.Popen(
            command_as(self._user, argv, death_signal=signal.SIGQUIT),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._base,
        )
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, "PostgreSQL died"
                assert time.monotonic() < give_up_at, "PostgreSQL did not start"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Ends the server the way an operator restarts it: connections are closed, data is kept."""
        if self._process is not None:
            stop(self._process, signal.SIGINT)
            self._process = None

    def close(self) -> None:
        """Ends the server for good."""
        self.stop()
        self._port.close()


@contextmanager
def restartable_postgres() -> Generator[RestartablePostgres]:
    """A server with an empty data directory, not started yet."""
    user = Unprivileged.current()
    with tempfile.TemporaryDirectory(
        prefix="headrace-test-postgres-", dir=temporary_root(), ignore_cleanup_errors=True
    ) as name:
        base = Path(name)
        base.chmod(0o755)
        user.own(base)
        server = RestartablePostgres(install=reachable_install(user, base), base=base, user=user)
        server.initialise()
        try:
            yield server
        finally:
            server.close()
