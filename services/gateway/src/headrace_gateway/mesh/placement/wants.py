"""Which runners are asked to have which model in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace_common.clock import Clock
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.placement.cutovers import Cutovers
from headrace_gateway.mesh.placement.prewarm import PrewarmList
from headrace_gateway.mesh.placement.ranked_runners import RankedRunners
from headrace_gateway.mesh.placement.ranking import choose_runners
from headrace_gateway.mesh.placement.replica_bounds import replica_bounds
from headrace_gateway.mesh.placement.replica_count import ReplicaCount, ScalingRule
from headrace_gateway.mesh.placement.replica_schedules import ReplicaSchedules
from headrace_gateway.mesh.placement.reports import ReportedLoad, read_reports
from headrace_gateway.mesh.placement.want_sender import SignTicket, WantSender
from headrace_gateway.mesh.runner_session import RunnerSession

_TICK_S = 1.0
_SOON_S = 0.1
_STEP_MODELS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPolicy:
    """What an operator decides of placement.

    Attributes:
        scaling: When a used model gets more or fewer replicas.
        keep_s: How long a model is wanted after its last call.
        cutover_wait_s: How long a new version may take to be loaded on as many runners as the one before.
        prewarm: Models that are wanted always, `tenant/model` or `tenant/model:version`.
    """

    scaling: ScalingRule
    keep_s: float
    cutover_wait_s: float
    prewarm: Sequence[str] = ()


@dataclass(slots=True)
class _Demand:
    """One version that is wanted, and why.

    Attributes:
        asked_at: When this gateway last had a call for it that no runner could take; None when it never had.
        used_at: When a runner last got a call for it, from whichever gateway.
        count: Follows its load while it is used.
        wanted: Replicas that it shall have; `ready` is how many it has.
    """

    version: CatalogVersion
    asked_at: float | None = None
    used_at: float | None = None
    count: ReplicaCount | None = None
    wanted: int = 0
    ready: int = 0

    def used_since(self, moment: float) -> bool:
        """Whether it was used or asked for at a time or later."""
        return max(self.asked_at or moment - 1, self.used_at or moment - 1) >= moment


class Wants:
    """Turns what runners report into wants, which lapse unless they are repeated.

    A version is wanted while runners report calls for it, while it belongs to a warm pool or the prewarm list, and
    while a cutover waits for it or was left without it. Reports reach all gateways, so they agree. Only a call for what
    no runner has leads to wants by itself, at the gateway that has the call; the others see in the reports what comes
    of it. One event loop.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        directory: RunnerDirectory,
        sign_ticket: SignTicket,
        clock: Clock,
        policy: PlacementPolicy,
    ) -> None:
        self._catalog = catalog
        self._directory = directory
        self._clock = clock
        self._policy = policy
        self._runners = RankedRunners(directory=directory)
        self._schedules = ReplicaSchedules(clock=clock)
        self._sender = WantSender(sign_ticket=sign_ticket, clock=clock)
        self._prewarm = PrewarmList(policy.prewarm)
        self.cutovers = Cutovers(
            catalog=catalog,
            directory=directory,
            schedules=self._schedules,
            clock=clock,
            wait_max_s=policy.cutover_wait_s,
        )
        self._demands: dict[str, _Demand] = {}
        self._kept: dict[str, CatalogVersion] = {}
        self._kept_as_of = -1
        self._released_at: dict[str, float] = {}
        self._releasing: dict[str, set[str]] = {}
        self._changed = asyncio.Event()
        catalog.add_listener(self.withdraw)
        directory.add_listener(lambda _runner_id: self._changed.set())

    @property
    def sent(self) -> int:
        """Wants sent since the start."""
        return self._sender.sent

    def replicas(self) -> list[tuple[CatalogVersion, int, int]]:
        """Every version that is wanted, on how many runners, and how many have it. Any thread."""
        return [(demand.version, demand.wanted, demand.ready) for demand in list(self._demands.values())]

    def touch(self, version: CatalogVersion) -> None:
        """A call for the version has come; runners are asked at once where none has it."""
        if version.uid not in self._demands and not self._directory.replicas(version.uid):
            self.ask(version)

    def ask(self, version: CatalogVersion) -> None:
        """A call waits for the version: runners that were asked and don't have it are asked again."""
        self._note_released()
        self._runners.look()
        self._released_at.pop(version.uid, None)
        demand = self._demands.setdefault(version.uid, _Demand(version))
        demand.asked_at = now = self._clock.monotonic()
        self._place(demand, ReportedLoad(replicas=len(self._directory.replicas(version.uid))), now)

    def withdraw(self, version_uid: str) -> None:
        """The version has left service: runners may unload it at once."""
        self._forget(version_uid)
        self._schedules.forget(version_uid)
        self._released_at.pop(version_uid, None)
        self._sender.withdraw(version_uid, self._having(version_uid))

    def release(self, version_uid: str) -> None:
        """Somebody wants the version out of memory: every runner that has it is told to let it go.

        It is not wanted again before it is used again, whatever its warm pool.
        """
        # What was released before, because another gateway asked, is no answer to this.
        self._note_released()
        self._let_go(version_uid)
        having = self._having(version_uid)
        if having:
            self._releasing.setdefault(version_uid, set()).update(session.token for session in having)
        self._sender.release(version_uid, having)

    def releasing(self, version_uid: str) -> bool:
        """Whether a runner that was told to let the version go, and is still there, has yet to say that it did."""
        self._note_released()
        waiting = self._releasing.get(version_uid, set())
        waiting &= {session.token for session in self._directory}
        if not waiting:
            self._releasing.pop(version_uid, None)
        return bool(waiting)

    def refresh(self) -> None:
        """Decides anew what is wanted, and repeats wants before they lapse."""
        for _ in self._steps():
            pass

    def _steps(self) -> Iterator[None]:
        """A refresh in steps that take a millisecond or so: calls may come between them."""
        self._note_released()
        self._runners.look()
        now = self._clock.monotonic()
        loads = read_reports(self._directory)
        self._note_used(loads, now)
        self._note_kept()
        self.cutovers.refresh(loads.keys())
        awaited = {version.uid: (version, replicas) for version, replicas in self.cutovers.wanted()}
        for version, _ in awaited.values():
            if version.uid not in self._released_at:
                self._demands.setdefault(version.uid, _Demand(version))
        yield
        for index, (uid, demand) in enumerate(list(self._demands.items())):
            if self._demands.get(uid) is demand:
                _, replicas = awaited.get(uid, (None, 0))
                self._place(demand, loads.get(uid) or ReportedLoad(), now, at_least=replicas)
            if index % _STEP_MODELS == _STEP_MODELS - 1:
                yield
        for uid, released_at in list(self._released_at.items()):
            # Kept while anything but a call could bring it back.
            if now - released_at > self._policy.keep_s and uid not in self._kept and uid not in awaited:
                del self._released_at[uid]

    async def run(self) -> None:
        """Refreshes when runners change and every second, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            for _ in self._steps():
                await asyncio.sleep(0)
            # Many changes come together: when models load, and when a runner comes or goes.
            await asyncio.sleep(_SOON_S)

    def _note_released(self) -> None:
        """Whichever gateway asked, none wants the version any more until it is used again."""
        for session in self._directory:
            while session.released:
                uid = session.released.pop()
                self._let_go(uid)
                self._releasing.get(uid, set()).discard(session.token)

    def _note_used(self, loads: dict[str, ReportedLoad], now: float) -> None:
        for uid, load in loads.items():
            if load.used_at is None or now - load.used_at > self._policy.keep_s:
                continue
            released_at = self._released_at.get(uid)
            if released_at is not None and load.used_at <= released_at:
                continue
            demand = self._demands.get(uid)
            if demand is None:
                version = self._catalog.by_uid(uid)
                if version is None:
                    continue
                demand = self._demands[uid] = _Demand(version)
            demand.used_at = max(load.used_at, demand.used_at or load.used_at)
            self._released_at.pop(uid, None)

    def _note_kept(self) -> None:
        """What is wanted also without use: warm pools, and what the operator lists."""
        if self._kept_as_of != self._catalog.changes:
            self._kept_as_of = self._catalog.changes
            pools = (version for version in self._catalog.served() if version.proto.manifest.HasField("placement"))
            self._kept = {version.uid: version for version in (*pools, *self._prewarm.find(self._catalog))}
        for uid, version in self._kept.items():
            if uid not in self._demands and uid not in self._released_at:
                self._demands[uid] = _Demand(version)

    def _place(self, demand: _Demand, load: ReportedLoad, now: float, *, at_least: int = 0) -> None:
        """Decides one version's replicas and tells the runners; forgets a version that needs none."""
        version = demand.version
        manifest = version.proto.manifest
        ranked = self._runners.of(version)
        bounds = replica_bounds(manifest, self._schedules.holding(version), len(ranked))
        wanted = min(at_least, bounds.most)
        if version.uid in self._kept:
            wanted = max(wanted, bounds.used if version.uid in self._prewarm else bounds.idle)
        if demand.used_since(now - self._policy.keep_s):
            if demand.count is None:
                delay = manifest.execution.batching.max_queue_delay
                delay_s = delay.seconds + delay.nanos / 1e9
                demand.count = ReplicaCount(rule=self._policy.scaling, loaded=load.replicas, delay_s=delay_s)
            wanted = max(wanted, demand.count.decide(now, load, bounds))
        else:
            demand.count = None
        demand.wanted, demand.ready = wanted, load.replicas
        if wanted:
            uid = version.uid
            chosen = choose_runners(
                ranked,
                wanted,
                loaded=lambda session: session.has_loaded(uid),
                failed=lambda session: _failed(session, uid),
            )
            self._sender.tell(version, chosen)
        elif version.uid not in self._kept:
            self._forget(version.uid)

    def _let_go(self, uid: str) -> None:
        self._forget(uid)
        self._released_at[uid] = self._clock.monotonic()

    def _forget(self, uid: str) -> None:
        self._demands.pop(uid, None)
        self._runners.forget(uid)
        self._sender.forget(uid)

    def _having(self, uid: str) -> list[RunnerSession]:
        return [session for session in self._directory if uid in session.models]


def _failed(session: RunnerSession, uid: str) -> bool:
    event = session.models.get(uid)
    return event is not None and event.state == gateway_pb2.MODEL_STATE_FAILED
