"""All runners that have a session with this gateway, and which of them have which model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError
from headrace_common.rpc_status import from_status_bytes
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.isolation import Isolation
from headrace_gateway.mesh.runner_session import RunnerSession

HEARTBEAT_CHECK_S = 0.25


class RunnerDirectory:
    """Index of open sessions. Everything but the two waits is synchronous. One event loop.

    Args:
        clock: Tells when heartbeats are missing.
        isolation: Which runners may serve which tenants; None where all may serve all.

    Attributes:
        rules: How often it has changed which runners may serve whom.
    """

    def __init__(self, *, clock: Clock, isolation: Isolation | None = None) -> None:
        self.rules = 0
        self._clock = clock
        self._isolation = isolation
        self._sessions: dict[str, RunnerSession] = {}
        self._replicas: dict[str, tuple[RunnerSession, ...]] = {}
        self._listeners: list[Callable[[str], None]] = []
        self._waiters: set[asyncio.Future[None]] = set()

    def __iter__(self) -> Iterator[RunnerSession]:
        return iter(self._sessions.values())

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, runner_id: str) -> RunnerSession | None:
        """A runner's session."""
        return self._sessions.get(runner_id)

    def add(self, session: RunnerSession) -> None:
        """A session has all its lanes."""
        self._sessions[session.id] = session
        self.changed(session)

    def remove(self, session: RunnerSession) -> None:
        """A session has ended. A newer session of the same runner stays."""
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]
            self.changed(session)

    def changed(self, session: RunnerSession) -> None:
        """A runner came, went, or changed its models or state: look-ups are made anew, waiting calls look again."""
        self._replicas.clear()
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for listener in list(self._listeners):
            listener(session.id)

    def isolation_changed(self) -> None:
        """Runners may serve other tenants than before."""
        self.rules += 1
        for session in list(self._sessions.values()):
            self.changed(session)

    def replicas(self, version_uid: str) -> tuple[RunnerSession, ...]:
        """Runners that take calls for the version now."""
        found = self._replicas.get(version_uid)
        if found is None:
            found = self._replicas[version_uid] = tuple(
                session
                for session in self._sessions.values()
                if session.takes_calls
                and session.has_loaded(version_uid)
                and (self._isolation is None or self._isolation.serves_version(session, version_uid))
            )
        return found

    def eligible(self, version: CatalogVersion) -> list[RunnerSession]:
        """Runners that take calls and have the backend and device that the version needs, loaded or not.

        And that may serve its tenant.
        """
        manifest = version.proto.manifest
        return [
            session
            for session in self._sessions.values()
            if session.takes_calls
            and (self._isolation is None or self._isolation.serves(session, version.tenant_id))
            and manifest.backend in session.backends
            and (not manifest.device_types or session.hello.device.type in manifest.device_types)
        ]

    @property
    def takes_calls(self) -> bool:
        """Whether any runner does."""
        return any(session.takes_calls for session in self._sessions.values())

    def could_serve(self, version: CatalogVersion) -> bool:
        """Whether a request sent now would be served, possibly after a load."""
        return any(self.load_failure(session, version.uid) is None for session in self.eligible(version))

    def load_failure(self, session: RunnerSession, version_uid: str) -> HeadraceError | None:
        """Why the version is not on the runner although it was wanted, or None."""
        event = session.models.get(version_uid)
        if event is None or event.state != gateway_pb2.MODEL_STATE_FAILED:
            return None
        return from_status_bytes(event.status)

    def forget_model(self, session: RunnerSession, version_uid: str) -> None:
        """The runner answered that it doesn't have the version, ahead of the event that says so."""
        if session.models.pop(version_uid, None) is not None:
            session.work.unloaded(version_uid)
            self.changed(session)

    async def wait_for_change(self, timeout_s: float | None = None) -> None:
        """Returns at the next change of any runner, or when `timeout_s` is over."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    async def watch_heartbeats(self) -> None:
        """Ejects runners that fall silent, until cancelled.

        A round that comes late says that this process was held up itself: heartbeats wait unread, so nobody is judged.
        """
        while True:
            due_at = self._clock.monotonic() + HEARTBEAT_CHECK_S
            await asyncio.sleep(HEARTBEAT_CHECK_S)
            if self._clock.monotonic() - due_at < HEARTBEAT_CHECK_S:
                for session in list(self._sessions.values()):
                    session.check_heartbeat()

    def add_listener(self, changed: Callable[[str], None]) -> None:
        """`changed` is called with a runner's id after it came, changed or left."""
        self._listeners.append(changed)

    def remove_listener(self, changed: Callable[[str], None]) -> None:
        self._listeners.remove(changed)

    def drain(self, runner_id: str) -> None:
        """Asks a runner to finish and leave; unknown ids do nothing."""
        session = self._sessions.get(runner_id)
        if session is not None:
            session.drain()

    async def close(self) -> None:
        """Sends no new calls and ends every session once its calls are answered; the caller bounds it."""
        for session in list(self._sessions.values()):
            session.release()
        while self._sessions:
            await self.wait_for_change()
