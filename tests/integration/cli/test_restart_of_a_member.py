"""The supervisor restarts a process when it is asked to, in order and without a word of a death."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace_cli.mesh import supervisor as supervising
from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.member import Endpoints
from headrace_cli.mesh.orphan_guard import OrphanGuard
from headrace_cli.mesh.process import MeshProcess, ProcessSpec
from headrace_cli.mesh.supervisor import Supervisor
from headrace_common.clock import SystemClock
from support.eventually import eventually

# Says that it serves, and when it is told to stop takes a moment to finish what it has.
SERVICE = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def leave(*_):
    time.sleep(0.2)
    (folder / "finished").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
(folder / "serves").touch()
while True:
    time.sleep(60)
"""


class Service:
    """A member that serves as soon as its process says so."""

    name = "service-0"
    endpoints = Endpoints()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = True

    async def prepare(self) -> None:
        (self.folder / "serves").unlink(missing_ok=True)

    def spec(self) -> ProcessSpec:
        script = SERVICE if self.starts else "raise SystemExit(3)"
        return ProcessSpec(
            name=self.name,
            command=(sys.executable, "-c", script, str(self.folder)),
            environment=dict(os.environ),
            log=self.folder / "log",
            folder=self.folder,
        )

    async def serving(self, process: MeshProcess) -> None:
        await eventually((self.folder / "serves").exists)


class Said:
    """What the supervisor would have told the person at the terminal."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def serving(self, name: str, endpoints: Endpoints, took_s: float, *, again: bool) -> None:
        self.words.append("back" if again else "serving")

    def died(self, name: str, pid: int, how: str, pause_s: float) -> None:
        self.words.append(how)

    def restarting(self, name: str) -> None:
        self.words.append("restarting")

    def stubborn(self, name: str) -> None:
        self.words.append("stubborn")

    def not_restarted(self, name: str, why: str) -> None:
        self.words.append(why)


class Mesh:
    def __init__(self, folder: Path) -> None:
        self.said = Said()
        self.guard = OrphanGuard()
        self.service = Service(folder)
        self.supervisor = Supervisor(guard=self.guard, clock=SystemClock(), report=self.said)

    @property
    def pid(self) -> int:
        (process,) = self.supervisor.processes()
        return process.pid


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    mesh = Mesh(tmp_path)
    await mesh.supervisor.start([mesh.service])
    yield mesh
    await mesh.supervisor.stop([["service-0"]])
    mesh.guard.close()


async def test_it_finishes_what_it_has_and_its_successor_serves_when_the_restart_is_over(mesh: Mesh) -> None:
    for _ in range(2):
        before, finished = mesh.pid, mesh.service.folder / "finished"
        await mesh.supervisor.restart("service-0")
        assert (mesh.pid != before, finished.exists(), (mesh.service.folder / "serves").exists()) == (True, True, True)
        finished.unlink()
    assert mesh.said.words == ["serving", "restarting", "back", "restarting", "back"]


async def test_a_later_death_is_told_and_its_pause_is_that_of_a_first_one(mesh: Mesh) -> None:
    await mesh.supervisor.restart("service-0")
    before = mesh.pid
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: mesh.said.words[-2:] == ["was ended by SIGKILL", "back"])
    assert mesh.pid != before


async def test_one_that_does_not_come_back_is_told_and_goes_on_being_started(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.service.starts = False
    with monkeypatch.context() as impatient:
        impatient.setattr(supervising, "_START_TIMEOUT_S", 1.0)
        with pytest.raises(MeshError, match="service-0 does not serve again"):
            await mesh.supervisor.restart("service-0")
    await eventually(lambda: "exited with 3" in mesh.said.words)
    mesh.service.starts = True
    await eventually(lambda: mesh.said.words[-1] == "back")


async def test_one_that_died_just_now_is_waited_for(mesh: Mesh) -> None:
    before = mesh.pid
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: "was ended by SIGKILL" in mesh.said.words)
    async with asyncio.timeout(60):
        await mesh.supervisor.restart("service-0")
    assert mesh.pid != before
    assert mesh.said.words.count("back") == 1
