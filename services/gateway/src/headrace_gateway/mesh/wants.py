"""Which runners are asked to have which model in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.clock import Clock
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession

WANT_TTL_S = 30.0
DEMAND_S = 300.0
REPLICAS_DEFAULT = 2
_TICK_S = 1.0
_ASK_AGAIN_S = 1.0

SignTicket = Callable[[CatalogVersion], str]


@dataclass(slots=True)
class _Demand:
    version: CatalogVersion
    used_at: float
    told: dict[str, float] = field(default_factory=dict[str, float])


class Wants:
    """Turns use into wants: a version that was used lately is wanted on a few runners, the same ones at every gateway.

    Runners are ranked per version by rendezvous hashing over their configured names, so a restarted runner gets its
    models back and gateways agree without talking to each other.
    Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998.
    """

    def __init__(self, *, directory: RunnerDirectory, sign_ticket: SignTicket, clock: Clock) -> None:
        self._directory = directory
        self._sign_ticket = sign_ticket
        self._clock = clock
        self._demand: dict[str, _Demand] = {}
        self._releasing: dict[str, set[str]] = {}
        directory.add_listener(lambda _runner_id: self.refresh())

    def touch(self, version: CatalogVersion) -> None:
        """The version is being used; the first use asks runners for it at once."""
        demand = self._demand.get(version.uid)
        if demand is None:
            demand = self._demand[version.uid] = _Demand(version, self._clock.monotonic())
            self._tell(demand)
        else:
            demand.used_at = self._clock.monotonic()

    def ask(self, version: CatalogVersion) -> None:
        """A call waits for the version: runners that were asked and don't have it are asked again."""
        self.touch(version)
        self._tell(self._demand[version.uid])

    def withdraw(self, version_uid: str) -> None:
        """The version has left service: runners may unload it at once."""
        self._demand.pop(version_uid, None)
        for session in self._directory:
            if version_uid in session.models:
                want = mesh_pb2.Want(ttl=Duration())
                want.version.uid = version_uid
                session.commands.put_nowait(mesh_pb2.GatewayCommand(want=want))

    def release(self, version_uid: str) -> None:
        """Somebody wants the version out of memory: every runner that has it is told to let it go."""
        self._demand.pop(version_uid, None)
        for session in self._directory:
            if version_uid in session.models:
                self._releasing.setdefault(version_uid, set()).add(session.token)
                release = mesh_pb2.Release(version_uid=version_uid)
                session.commands.put_nowait(mesh_pb2.GatewayCommand(release=release))

    def releasing(self, version_uid: str) -> bool:
        """Whether a runner that was told to let the version go, and is still there, has yet to say that it did."""
        waiting = self._releasing.get(version_uid, set())
        waiting &= {session.token for session in self._directory}
        if not waiting:
            self._releasing.pop(version_uid, None)
        return bool(waiting)

    def refresh(self) -> None:
        """Repeats wants before they lapse, moves them to other runners where needed, drops those without demand."""
        self._note_released()
        now = self._clock.monotonic()
        for uid, demand in list(self._demand.items()):
            if now - demand.used_at > DEMAND_S:
                del self._demand[uid]
            else:
                self._tell(demand)

    async def run(self) -> None:
        """Refreshes every second until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.refresh()

    def _note_released(self) -> None:
        """Whichever gateway asked, none wants the version any more until it is used again."""
        for session in self._directory:
            while session.released:
                uid = session.released.pop()
                self._demand.pop(uid, None)
                self._releasing.get(uid, set()).discard(session.token)

    def _tell(self, demand: _Demand) -> None:
        now = self._clock.monotonic()
        for session in self._chosen(demand.version):
            told_at = demand.told.get(session.token, -WANT_TTL_S)
            if now - told_at > (WANT_TTL_S / 2 if demand.version.uid in session.models else _ASK_AGAIN_S):
                demand.told[session.token] = now
                want = mesh_pb2.Want(
                    tenant_id=demand.version.tenant_id,
                    version=demand.version.proto,
                    ticket=self._sign_ticket(demand.version),
                    ttl=Duration(seconds=int(WANT_TTL_S)),
                )
                session.commands.put_nowait(mesh_pb2.GatewayCommand(want=want))
        demand.told = {token: at for token, at in demand.told.items() if now - at < WANT_TTL_S}

    def _chosen(self, version: CatalogVersion) -> Sequence[RunnerSession]:
        """The runners to ask: those that could not load it come last."""
        replicas = version.proto.manifest.execution.replicas or REPLICAS_DEFAULT
        ranked = sorted(
            self._directory.eligible(version),
            key=lambda session: (
                self._directory.load_failure(session, version.uid) is not None,
                _weight(version.uid, session.hello.runner_name),
            ),
        )
        return ranked[:replicas]


def _weight(version_uid: str, runner_name: str) -> bytes:
    return hashlib.blake2b(f"{version_uid}/{runner_name}".encode(), digest_size=8).digest()
