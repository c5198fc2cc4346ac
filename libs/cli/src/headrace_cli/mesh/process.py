"""One process of the mesh: started by the launcher, waited for, and stopped in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace_cli.mesh.launch import Launch, launch_command
from headrace_cli.mesh.orphan_guard import OrphanGuard, signal_group

HAS_DEATH_SIGNAL = sys.platform == "linux"


@dataclass(frozen=True, kw_only=True)
class StopStep:
    """A signal, and how long the process may take to obey it before the next step."""

    signal: int
    wait_s: float


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """What to run."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    folder: Path
    # What it means that the process ends with status 0 though the supervisor did not stop it.
    orderly_exit: str = "was told to stop and left"
    # User and group to become; None means the supervisor's own.
    user: tuple[int, int] | None = None
    # What the process gets when the supervisor is killed.
    death_signal: int = signal.SIGKILL
    stop_steps: tuple[StopStep, ...] = (
        StopStep(signal=signal.SIGTERM, wait_s=12.0),
        StopStep(signal=signal.SIGKILL, wait_s=5.0),
    )


class MeshProcess:
    """A started process. It leads a process group of its own, so a terminal's Ctrl-C does not reach it."""

    def __init__(self, spec: ProcessSpec, guard: OrphanGuard) -> None:
        """Start the process; needs a running event loop.

        The kernel ties the death signal to the thread that starts the process, so this must run in the thread that
        lives as long as the supervisor: the main one.
        """
        self.spec = spec
        self._guard = guard
        self._lifeline: int | None = None
        launch = Launch(os.getpid(), spec.death_signal, spec.user, not HAS_DEATH_SIGNAL, list(spec.command))
        standard_input: int = subprocess.DEVNULL
        if launch.lifeline:
            standard_input, self._lifeline = os.pipe()
        with spec.log.open("ab") as log:
            self._popen = subprocess.Popen(
                launch_command(launch),
                stdin=standard_input,
                stdout=log,
                stderr=log,
                cwd=spec.folder,
                env=dict(spec.environment),
                start_new_session=True,
            )
        if launch.lifeline:
            os.close(standard_input)
        guard.add(self.pid, spec.death_signal)
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        threading.Thread(
            target=self._await_exit, args=(asyncio.get_running_loop(),), name=f"wait-{spec.name}", daemon=True
        ).start()

    @property
    def pid(self) -> int:
        """The process id, which is also its group's."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended as far as the loop knows."""
        return not self._exited.done()

    async def wait(self) -> int:
        """The exit status once it ends; negative for a signal. Cancelling leaves the process alone."""
        return await asyncio.shield(self._exited)

    async def stop(self) -> bool:
        """Go through the stop steps until it ends; True when the first one was enough. Bounded by their waits."""
        for position, step in enumerate(self.spec.stop_steps):
            if self.running:
                self._popen.send_signal(step.signal)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(step.wait_s):
                    await self.wait()
                return position == 0
        return False

    def kill(self) -> None:
        """End it at once."""
        if self.running:
            self._popen.kill()

    def _await_exit(self, loop: asyncio.AbstractEventLoop) -> None:
        status = self._popen.wait()
        # A closed loop means that nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._ended, status)

    def _ended(self, status: int) -> None:
        # What the process left in its group (a worker that it had no time to stop) must not outlive it.
        signal_group(self.pid, signal.SIGKILL)
        self._guard.remove(self.pid)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if not self._exited.done():
            self._exited.set_result(status)


def describe_exit(status: int, *, orderly: str = "exited with 0") -> str:
    """An exit status in words: `exited with 1`, `was ended by SIGKILL`, or `orderly` where nothing went wrong."""
    if status == 0:
        return orderly
    if status > 0:
        return f"exited with {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was ended by {name}"
