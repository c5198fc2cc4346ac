"""Keeps the members of a mesh running: starts them in order, restarts those that die, stops all in reverse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.log_files import keep_bounded
from headrace_cli.mesh.member import Endpoints, Member
from headrace_cli.mesh.orphan_guard import OrphanGuard
from headrace_cli.mesh.process import MeshProcess, describe_exit
from headrace_cli.mesh.ready_file import RunningProcess
from headrace_cli.mesh.restart import RestartBackoff
from headrace_common.clock import Clock

# Time for one start: a cold machine reads a few hundred MiB of libraries.
_START_TIMEOUT_S = 90.0
# A member that dies this often in a row before it ever served stops the start of the mesh.
_FIRST_STARTS = 4


class Report(Protocol):
    """Who tells the person at the terminal."""

    def serving(self, name: str, endpoints: Endpoints, took_s: float, *, again: bool) -> None:
        """A member serves; `again` after a restart."""
        ...

    def died(self, name: str, pid: int, how: str, pause_s: float) -> None:
        """A member ended by itself and is started again after a pause."""
        ...

    def restarting(self, name: str) -> None:
        """A member is stopped in order to be started again."""
        ...

    def stubborn(self, name: str) -> None:
        """A member did not obey the polite stop signal and was ended."""
        ...

    def not_restarted(self, name: str, why: str) -> None:
        """A start after a death failed before the process ran; it is tried again."""
        ...


class _Watched:
    """A member with its present process."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.process: MeshProcess | None = None
        self.backoff = RestartBackoff()
        self.served: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.keeper: asyncio.Task[None] | None = None
        # Of a restart that was asked for: whether the process is to end, and who waits until its successor serves.
        self.leaving = False
        self.back: asyncio.Future[None] | None = None

    @property
    def has_served(self) -> bool:
        return self.served.done() and not self.served.cancelled() and self.served.exception() is None


class Supervisor:
    """The running mesh. One event loop, in the main thread: the kernel ties children's lives to it."""

    def __init__(self, *, guard: OrphanGuard, clock: Clock, report: Report) -> None:
        self._guard = guard
        self._clock = clock
        self._report = report
        self._watched: dict[str, _Watched] = {}
        self.changed = asyncio.Event()
        """Set whenever a process id changed; whoever publishes them clears it."""

    async def start(self, members: Sequence[Member]) -> None:
        """Start members side by side and return once all serve; from then on they are kept running.

        Raises:
            MeshError: one of them can't be started. The others are left running; `stop` ends them.
        """
        watched = [_Watched(member) for member in members]
        for one in watched:
            self._watched[one.member.name] = one
            one.keeper = asyncio.create_task(self._keep(one), name=f"keep-{one.member.name}")
        await asyncio.gather(*(asyncio.shield(one.served) for one in watched))

    async def restart(self, name: str) -> None:
        """Stop a member's process in order and return once the next one serves.

        Raises:
            MeshError: it doesn't serve in time; it goes on being started.
        """
        one = self._watched[name]
        back = one.back = asyncio.get_running_loop().create_future()
        self._report.restarting(name)
        process = one.process
        if process is not None and process.running:
            one.leaving = True
            if not await process.stop():
                self._report.stubborn(name)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await back
        except TimeoutError:
            log = process.spec.log if process is not None else None
            raise MeshError(f"{name} does not serve again after {_START_TIMEOUT_S:g} s", log=log) from None

    def processes(self) -> list[RunningProcess]:
        """The processes as they are now, in the order of their start."""
        return [
            RunningProcess(name=name, pid=one.process.pid, endpoints=one.member.endpoints)
            for name, one in self._watched.items()
            if one.process is not None
        ]

    def bound_logs(self) -> list[str]:
        """Keep every log at a bounded size; returns what failed, in words."""
        failures: list[str] = []
        for log in [one.process.spec.log for one in self._watched.values() if one.process is not None]:
            try:
                keep_bounded(log)
            except OSError as error:
                failures.append(f"the log {log} can't be kept small: {error.strerror}")
        return failures

    async def stop(self, stages: Sequence[Sequence[str]]) -> None:
        """Stop members stage by stage, those of one stage side by side. Bounded by their stop steps."""
        for stage in stages:
            await asyncio.gather(*(self._stop(self._watched[name]) for name in stage if name in self._watched))

    def kill(self) -> None:
        """End every process at once."""
        for one in self._watched.values():
            if one.process is not None:
                one.process.kill()

    async def _stop(self, one: _Watched) -> None:
        if one.keeper is not None:
            one.keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one.keeper
        if not one.served.done():
            one.served.cancel()
        if one.process is not None and one.process.running and not await one.process.stop():
            self._report.stubborn(one.member.name)

    async def _keep(self, one: _Watched) -> None:
        try:
            while True:
                pause_s = await self._live_once(one)
                await asyncio.sleep(pause_s)
        except Exception as error:  # noqa: BLE001 - it reaches whoever waits for the start
            one.served.set_exception(error)

    async def _live_once(self, one: _Watched) -> float:
        """Start the member and stay with it until it ends; returns the pause before the next start."""
        name, started_at = one.member.name, self._clock.monotonic()
        process: MeshProcess | None = None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await one.member.prepare()
            process = one.process = MeshProcess(one.member.spec(), self._guard)
            self.changed.set()
            if await self._until_serving(one, process):
                took_s = self._clock.monotonic() - started_at
                self._report.serving(name, one.member.endpoints, took_s, again=one.has_served)
                for waiting in (one.served, one.back):
                    if waiting is not None and not waiting.done():
                        waiting.set_result(None)
                self.changed.set()
            how = describe_exit(await process.wait(), orderly=process.spec.orderly_exit)
            if one.leaving:
                one.leaving = False
                return 0.0
        except Exception as error:
            if process is not None and process.running:
                process.kill()
                await process.wait()
            if not one.has_served:
                raise
            pause_s = one.backoff.after_death(lived_s=self._clock.monotonic() - started_at)
            self._report.not_restarted(name, str(error) or "it took too long")
            return pause_s
        pause_s = one.backoff.after_death(lived_s=self._clock.monotonic() - started_at)
        if not one.has_served and one.backoff.deaths >= _FIRST_STARTS:
            raise MeshError(f"{name} {how} before it served", log=process.spec.log)
        self._report.died(name, process.pid, how, pause_s)
        return pause_s

    async def _until_serving(self, one: _Watched, process: MeshProcess) -> bool:
        """True once the process serves, False when it ended before; one that takes too long is ended."""
        serving = asyncio.ensure_future(one.member.serving(process))
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({serving, ended}, timeout=_START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if serving.done() and process.running:
                serving.result()
                return True
            process.kill()
            return False
        finally:
            for task in (serving, ended):
                task.cancel()
            await asyncio.gather(serving, ended, return_exceptions=True)
