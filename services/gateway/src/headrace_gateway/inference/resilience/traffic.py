"""The calls that are open now: of each tenant, of each version, and of each version at each runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from headrace_common.clock import Clock
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.resilience.adaptive_limit import WAIT_BASE_S, AdaptiveLimit
from headrace_gateway.inference.resilience.circuit_breaker import BreakerState, CircuitBreaker, Transition
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.inference.resilience.outlier_detector import RunnerRecord
from headrace_gateway.inference.resilience.priority_line import PriorityLine
from headrace_gateway.inference.resilience.service_pace import ServicePace
from headrace_gateway.inference.resilience.tenant_shares import TenantShares
from headrace_gateway.mesh.runner_session import RunnerSession

if TYPE_CHECKING:
    from headrace_gateway.inference.call import InferenceCall

_ADAPTIVE_MIN = 4
# Rows of one execution where the manifest doesn't say.
_BATCH_SIZE = 64


class TenantTraffic:
    """A tenant's calls.

    Attributes:
        sent: Calls at runners.
        room: Unary calls that wait, and `hall` those of streams and batches.
        held: The same by runner, by the session's token.
        active: Whether it counts for the shares of runners.
        models: Versions of it that were called.
    """

    __slots__ = ("active", "hall", "held", "id", "models", "room", "sent")

    def __init__(self, tenant_id: str) -> None:
        self.id = tenant_id
        self.sent = 0
        self.models = 0
        self.active = False
        self.room: PriorityLine[InferenceCall] = PriorityLine()
        self.hall: PriorityLine[InferenceCall] = PriorityLine()
        self.held: dict[str, CallsHeld] = {}

    def held_at(self, token: str) -> CallsHeld:
        """The tenant's calls at a runner."""
        found = self.held.get(token)
        if found is None:
            found = self.held[token] = CallsHeld()
        return found


class CallsHeld:
    """A number that many replicas count together."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class ReplicaTraffic:
    """A version's calls at one runner, and what is thought of them there.

    Attributes:
        in_flight: Places of the calls that somebody waits for; `held` are the calls of all the tenant's versions there.
        ok_at: Reading of the monotonic clock at the last good answer; `heard_at` at the last answer of any kind, or
            when the first of the calls was sent that are open.
    """

    __slots__ = ("breaker", "heard_at", "held", "in_flight", "model", "ok_at", "record", "session", "token", "window")

    def __init__(
        self,
        *,
        model: ModelTraffic,
        session: RunnerSession,
        breaker: CircuitBreaker,
        record: RunnerRecord,
        window: AdaptiveLimit,
    ) -> None:
        self.model = model
        self.session = session
        self.token = session.token
        self.breaker = breaker
        self.record = record
        self.window = window
        self.held = model.tenant.held_at(session.token)
        self.in_flight = 0
        self.ok_at = 0.0
        self.heard_at = 0.0

    @property
    def over(self) -> bool:
        """Whether the session has ended and all is told."""
        return not self.in_flight and self.session.closed.is_set()

    def began(self, now: float, places: int = 1) -> None:
        """A call was sent that takes so many slots."""
        if not self.in_flight:
            self.heard_at = now
        self.in_flight += places
        model = self.model
        model.sent += 1
        model.tenant.sent += 1
        self.held.count += 1
        if self.breaker.state:
            self.breaker.sent(now)

    def ended(self, places: int = 1) -> None:
        """Nobody waits for one of the calls any more."""
        self.in_flight -= places
        model = self.model
        model.sent -= 1
        model.tenant.sent -= 1
        self.held.count -= 1


class ModelTraffic:
    """A version's calls, and its replicas that were ever called.

    Attributes:
        sent: Calls at runners; `paused` are those that pause before a retry.
        line: All calls that wait, in the order of service; `room` are the unary ones.
        pace: How fast the line moves.
        troubled: Replicas whose breaker is not closed.
        hedge_after_s: When a second replica gets a call too; 0 for never.
    """

    __slots__ = (
        "hedge_after_s",
        "line",
        "pace",
        "paused",
        "replicas",
        "room",
        "sent",
        "tenant",
        "traffic",
        "troubled",
        "version",
    )

    def __init__(self, *, version: CatalogVersion, tenant: TenantTraffic, traffic: Traffic) -> None:
        self.version = version
        self.tenant = tenant
        self.traffic = traffic
        self.sent = 0
        self.paused = 0
        self.troubled = 0
        self.line: PriorityLine[InferenceCall] = PriorityLine()
        self.room: PriorityLine[InferenceCall] = PriorityLine()
        self.pace = ServicePace()
        self.replicas: dict[str, ReplicaTraffic] = {}
        self.hedge_after_s = version.proto.manifest.routing.hedge_after.ToNanoseconds() / 1e9

    @property
    def may_send(self) -> bool:
        """Whether the bulkheads of the model and its tenant let one more call go to a runner."""
        limits = self.traffic.limits
        return self.sent < limits.model_calls_max and self.tenant.sent < limits.tenant_calls_max

    def usable(self, session: RunnerSession) -> bool:
        """Whether one more call may go there: by the adaptive limit, the bulkhead, the tenant's share, the breaker."""
        replica = self.replicas.get(session.token) or self.replica(session)
        if replica.in_flight >= replica.window.limit:
            replica.window.hold_back()
            return False
        traffic = self.traffic
        in_flight = session.work.in_flight
        shares = traffic.shares
        return (
            in_flight < shares.calls_max
            and (in_flight < shares.open_to_all or replica.held.count < shares.share)
            and (not replica.breaker.state or replica.breaker.allows(traffic.clock.monotonic()))
        )

    def call_s(self, sessions: Iterable[RunnerSession]) -> float:
        """Time between two answers while these replicas are busy, by what executions took; 0 when that says nothing.

        It says nothing where calls share executions: then they take the less the more there are. Nor where a call takes
        as long as its client likes.
        """
        if self.version.proto.manifest.batched or self.version.generates:
            return 0.0
        per_s = 0.0
        for session in sessions:
            work = session.work.version(self.version.uid)
            call_s = work.cost_s * work.fresh
            if not call_s:
                return 0.0
            per_s += 1 / call_s
        return 1 / per_s if per_s else 0.0

    def replica(self, session: RunnerSession) -> ReplicaTraffic:
        """The version at a runner, made on first use."""
        found = self.replicas.get(session.token)
        if found is None:
            found = self.replicas[session.token] = self.traffic.new_replica(self, session)
        return found

    @property
    def idle(self) -> bool:
        """Whether no call is open."""
        return not self.sent and not self.line and not self.paused

    def forget(self, replica: ReplicaTraffic) -> None:
        """A session has ended."""
        del self.replicas[replica.token]
        self.troubled -= replica.breaker.state is not BreakerState.CLOSED
        if not replica.held.count:
            self.tenant.held.pop(replica.token, None)


class Traffic:
    """What is open at this gateway. One event loop.

    Args:
        record: Finds what is held against a runner.
        changed: Told each transition of a breaker.
    """

    def __init__(
        self,
        *,
        limits: ResilienceLimits,
        clock: Clock,
        record: Callable[[str], RunnerRecord],
        changed: Transition,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.shares = TenantShares(calls_max=limits.runner_calls_max)
        self.models: dict[str, ModelTraffic] = {}
        self.tenants: dict[str, TenantTraffic] = {}
        self._leaving: set[str] = set()
        self._record = record
        self._changed = changed

    def model(self, version: CatalogVersion) -> ModelTraffic:
        """A version's calls, made on first use."""
        found = self.models.get(version.uid)
        if found is None:
            tenant = self.tenants.get(version.tenant_id)
            if tenant is None:
                tenant = self.tenants[version.tenant_id] = TenantTraffic(version.tenant_id)
            tenant.models += 1
            found = self.models[version.uid] = ModelTraffic(version=version, tenant=tenant, traffic=self)
        return found

    def new_replica(self, model: ModelTraffic, session: RunnerSession) -> ReplicaTraffic:
        """A version's first call at a runner."""
        limits = self.limits

        def changed(former: BreakerState, state: BreakerState) -> None:
            model.troubled += (former is BreakerState.CLOSED) - (state is BreakerState.CLOSED)
            self._changed(former, state)

        event = session.models.get(model.version.uid)
        manifest = model.version.proto.manifest
        batching = manifest.execution.batching
        limit_min = max(_ADAPTIVE_MIN, 2 * (event.execution_slots if event is not None else 1))
        if manifest.batched:
            # One batch runs, and the next one gathers.
            limit_min = max(limit_min, 2 * (batching.max_batch_size or _BATCH_SIZE))
        # How long calls wait that take as long as their clients like doesn't tell how many are too many. As many may
        # wait as are computed: no slot is free then, and placement sees whether there are too few.
        limit_max = min(limit_min, limits.runner_calls_max) if model.version.generates else limits.runner_calls_max
        return ReplicaTraffic(
            model=model,
            session=session,
            breaker=CircuitBreaker(
                volume=limits.breaker_volume,
                ratio=limits.breaker_ratio,
                open_s=limits.breaker_open_s,
                successes=limits.breaker_successes,
                changed=changed,
            ),
            record=self._record(session.id),
            window=AdaptiveLimit(
                limit_min=limit_min,
                limit_max=limit_max,
                # Calls that wait on purpose, for others to share an execution with, are not too many.
                wait_base_s=WAIT_BASE_S + batching.max_queue_delay.ToNanoseconds() / 1e9,
            ),
        )

    def active(self, tenant: TenantTraffic, now: float) -> None:
        """The tenant has a call open."""
        tenant.active = True
        self.shares.seen(tenant.id, now)

    def leave(self, uid: str) -> None:
        """A version has left service: it is forgotten once it has no calls."""
        if uid in self.models:
            self._leaving.add(uid)

    def review(self, now: float) -> None:
        """To be called about once a second: tells which tenants are active, and forgets what has ended."""
        for uid in [uid for uid in self._leaving if self.models[uid].idle]:
            self._leaving.discard(uid)
            self._forget(self.models.pop(uid))
        for model in self.models.values():
            for replica in [replica for replica in model.replicas.values() if replica.over]:
                model.forget(replica)
        for tenant in self.tenants.values():
            if tenant.sent or tenant.room or tenant.hall:
                self.active(tenant, now)
        for tenant_id in self.shares.rest(now):
            tenant = self.tenants[tenant_id]
            tenant.active = False
            if not tenant.models:
                del self.tenants[tenant_id]

    def _forget(self, model: ModelTraffic) -> None:
        """A version without calls has left service."""
        tenant = model.tenant
        tenant.models -= 1
        if tenant.models:
            # What the tenant has at a runner is counted for all of its models together.
            used = {token for other in self.models.values() if other.tenant is tenant for token in other.replicas}
            for token in model.replicas.keys() - used:
                tenant.held.pop(token, None)
        elif not tenant.active:
            del self.tenants[tenant.id]
