"""A supervisor in a process of its own, for tests that kill it.

    supervised.py stores STATE_DIR      PostgreSQL and Valkey
    supervised.py family STATE_DIR      a process with a child of its own

Prints one JSON line once everything serves and again after each restart, and stops in order on SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import psycopg

from headrace_cli.mesh.account import unprivileged_account
from headrace_cli.mesh.embedded_postgres import EmbeddedPostgres
from headrace_cli.mesh.embedded_valkey import EmbeddedValkey, valkey_binary
from headrace_cli.mesh.member import Endpoints, Member
from headrace_cli.mesh.orphan_guard import OrphanGuard
from headrace_cli.mesh.postgres_install import place_postgres, wheel_install
from headrace_cli.mesh.process import MeshProcess, ProcessSpec
from headrace_cli.mesh.secrets import open_secrets
from headrace_cli.mesh.state_dir import StateDir
from headrace_cli.mesh.supervisor import Supervisor
from headrace_cli.mesh.up_report import UpReport
from headrace_cli.terminal import messages
from headrace_common.clock import SystemClock

_FAMILY = (
    "import os, subprocess, sys, time; child = subprocess.Popen(['sleep', '600'])\nprint(child.pid); time.sleep(600)"
)


class Family:
    """A member that starts a child; the child is in its process group but knows no death signal."""

    name = "family"
    endpoints = Endpoints()

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "family.log"

    async def prepare(self) -> None:
        self._log.write_text("")

    def spec(self) -> ProcessSpec:
        return ProcessSpec(
            name=self.name,
            command=(sys.executable, "-u", "-c", _FAMILY),
            environment=dict(os.environ),
            log=self._log,
            folder=self._folder,
        )

    async def serving(self, process: MeshProcess) -> None:
        while not self._log.read_text():
            await asyncio.sleep(0.02)

    @property
    def child(self) -> int:
        return int(self._log.read_text())


def stores(state: StateDir) -> list[Member]:
    secrets = open_secrets(state.secrets)
    account = unprivileged_account()
    placement = place_postgres(state=state.path, identity=state.identity, wheel=wheel_install(), account=account)
    return [
        EmbeddedPostgres(
            placement=placement,
            account=account,
            password=secrets.postgres_password,
            log=state.logs / "postgres.log",
        ),
        EmbeddedValkey(
            binary=valkey_binary(),
            folder=state.path / "valkey",
            password=secrets.valkey_password,
            log=state.logs / "valkey.log",
        ),
    ]


async def tell(supervisor: Supervisor, members: list[Member]) -> None:
    said: dict[str, object] = {process.name: process.pid for process in supervisor.processes()}
    for member in members:
        if isinstance(member, Family):
            said["child"] = member.child
        if isinstance(member, EmbeddedPostgres):
            said["url"] = member.url
            async with await psycopg.AsyncConnection.connect(member.url) as connection:
                workers = await connection.execute("SELECT pid FROM pg_stat_activity")
                said["workers"] = [pid for (pid,) in await workers.fetchall()]
        if isinstance(member, EmbeddedValkey):
            said["redis"] = member.url
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def main(what: str, folder: Path) -> None:
    state = StateDir(folder)
    state.open()
    members: list[Member] = stores(state) if what == "stores" else [Family(state.path)]
    clock = SystemClock()
    guard = OrphanGuard()
    supervisor = Supervisor(guard=guard, clock=clock, report=UpReport(console=messages(), clock=clock))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await supervisor.start(members)
    await tell(supervisor, members)
    supervisor.changed.clear()
    while not stop.is_set():
        try:
            await asyncio.wait_for(supervisor.changed.wait(), 0.05)
        except TimeoutError:
            continue
        supervisor.changed.clear()
        await asyncio.sleep(0.3)
        try:
            await tell(supervisor, members)
        except (psycopg.OperationalError, ValueError):
            supervisor.changed.set()
    await supervisor.stop([[member.name] for member in reversed(members)])
    guard.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
