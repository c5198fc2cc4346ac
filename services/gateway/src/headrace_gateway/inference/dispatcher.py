"""Sends calls to runners: at once or when there is room, and once more where the first attempt fails."""

from __future__ import annotations

from random import Random

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError
from headrace_gateway.inference.call import InferenceCall, Outcome
from headrace_gateway.inference.replica_choice import Usable
from headrace_gateway.inference.resilience import failures
from headrace_gateway.inference.resilience.circuit_breaker import BreakerState
from headrace_gateway.inference.resilience.hedge import Hedge
from headrace_gateway.inference.resilience.hedges import Hedges
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.inference.resilience.replica_health import ReplicaHealth
from headrace_gateway.inference.resilience.retries import Retries
from headrace_gateway.inference.resilience.retry_budget import RetryBudget
from headrace_gateway.inference.resilience.traffic import ModelTraffic, ReplicaTraffic
from headrace_gateway.inference.routing import Router
from headrace_gateway.inference.waiting_line import WaitingLine
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.placement import Wants
from headrace_gateway.mesh.runner_session import RunnerSession

_WATCH_S = 0.25
_REVIEW_S = 1.0
_BREAKER_STATES = {
    BreakerState.CLOSED: gateway_pb2.BREAKER_STATE_CLOSED,
    BreakerState.HALF_OPEN: gateway_pb2.BREAKER_STATE_HALF_OPEN,
    BreakerState.OPEN: gateway_pb2.BREAKER_STATE_OPEN,
}


class Dispatcher:
    """Picks a replica, sends, retries. No call costs a task, waiting ones neither. One event loop.

    Somebody must call `tick` many times a second.

    Attributes:
        health: What is known of replicas and runners, with the traffic that is open.
        line: The calls that wait.
    """

    def __init__(
        self,
        *,
        directory: RunnerDirectory,
        wants: Wants,
        clock: Clock,
        router: Router,
        random: Random,
        limits: ResilienceLimits,
    ) -> None:
        self._directory = directory
        self._wants = wants
        self._clock = clock
        self._router = router
        self.health = ReplicaHealth(directory=directory, limits=limits, clock=clock)
        self.budget = RetryBudget(ratio=limits.retry_ratio, floor_per_s=limits.retry_floor_per_s, clock=clock)
        self.retries = Retries(budget=self.budget, random=random)
        self.hedges = Hedges(budget=self.budget, health=self.health)
        self.line = WaitingLine(
            directory=directory, wants=wants, health=self.health, limits=limits, clock=clock, send=self._send_now
        )
        self._traffic = self.health.traffic
        self._watch_at = self._review_at = 0.0

    def start(self, call: InferenceCall) -> None:
        """Sends the call, or lets it wait for a replica; tells `call.finished` how it ended, unless it is cancelled.

        Raises:
            HeadraceError: CONCURRENCY_EXCEEDED (RESOURCE_EXHAUSTED), CIRCUIT_OPEN (UNAVAILABLE), DEADLINE_UNREACHABLE
                (DEADLINE_EXCEEDED), or why the model can't be loaded.
        """
        version = call.version
        self._wants.touch(version)
        model = self._traffic.models.get(version.uid) or self._traffic.model(version)
        call.routed = self._answered
        call.parted = self._parted
        self.budget.calls += 1
        if not model.tenant.active:
            self._traffic.active(model.tenant, self._clock.monotonic())
        # Nobody before a call of a sequence has to do with its replica: their order is kept elsewhere.
        if (not model.line or call.sequence) and self._send_now(call, model):
            return
        self.line.join(call, model)

    def cancel(self, call: InferenceCall) -> None:
        """Nobody waits for the call any more: takes it back, or cancels it on the runner."""
        replica = call.replica
        if replica is not None:
            self.health.unknown(replica, call.sent_at)
        self._take_back(call)

    def expire(self, call: InferenceCall, error: HeadraceError) -> None:
        """The call's time is over; like `cancel`, but a replica that answers nobody is held responsible."""
        replica = call.replica
        if replica is not None:
            self.health.expired(replica, error, call.sent_at, self._clock.monotonic())
        self._take_back(call)

    def tick(self) -> None:
        """Does what is due: retries after a pause, hedges, a look at those that wait, at runners and tenants."""
        now = self._clock.monotonic()
        for call in self.retries.due(now):
            model = self._traffic.model(call.version)
            model.paused -= 1
            self._go_on(call, model)
        for call in self.hedges.due(now):
            self._hedge(call, now)
        if now >= self._watch_at:
            self._watch_at = now + _WATCH_S
            self.health.watch(now)
        if now >= self._review_at:
            self._review_at = now + _REVIEW_S
            self._traffic.review(now)
            self.health.left()
        self.line.tick(now)

    def breaker_state(self, session: RunnerSession, version_uid: str) -> gateway_pb2.BreakerState.ValueType:
        """The state of a version's circuit breaker at a runner."""
        return _BREAKER_STATES[self.health.state(session, version_uid)]

    def version_left(self, uid: str) -> None:
        """A version has left service."""
        self._traffic.leave(uid)

    def _send_now(self, call: InferenceCall, model: ModelTraffic) -> bool:
        """Sends the call if a replica takes it now."""
        if not model.may_send:
            return False
        session = None
        if model.troubled and not call.sequence and not call.attempt:
            session = self.health.probe(model, len(call.payload))
        if session is None:
            session = self._router.choose(call, self._untried(call, model) if call.refused_by else model.usable)
            if session is None:
                return False
        now = self._clock.monotonic()
        replica = model.replicas.get(session.token) or model.replica(session)
        call.session = session
        call.replica = replica
        call.sent_at = now
        replica.began(now, call.places)
        call.id = session.calls.send(call)
        call.sends += 1
        if model.hedge_after_s and not call.attempt and not call.sequence and call.parts is None:
            self.hedges.plan(call, now + model.hedge_after_s)
        return True

    @staticmethod
    def _untried(call: InferenceCall, model: ModelTraffic) -> Usable:
        refused_by = call.refused_by
        return lambda session: session.token not in refused_by and model.usable(session)

    def _take_back(self, call: InferenceCall) -> None:
        replica, call.replica = call.replica, None
        if replica is not None:
            replica.ended(call.places)
            replica.session.calls.leave(call.id)
        self.hedges.drop(call)
        if call.waits_since:
            self.line.leave(call)
        if call.retry_at:
            self.retries.forget(call)
            self._traffic.model(call.version).paused -= 1
        if self.line.models:
            self.line.place_free(self._clock.monotonic())

    def _parted(self, call: InferenceCall, payload: bytes) -> None:
        replica, parts = call.replica, call.parts
        if replica is not None and parts is not None:
            now = self._clock.monotonic()
            first_due = parts.attempt_first_s is None
            parts.add(call, payload, now)
            if first_due and parts.attempt_first_s is not None:
                self.health.heard(replica, call.sent_at, now)

    def _answered(self, call: InferenceCall, outcome: Outcome) -> None:
        replica = call.replica
        if replica is None:
            # The end of another call, told just before, has ended this one.
            return
        now = self._clock.monotonic()
        call.replica = None
        replica.ended(call.places)
        if isinstance(outcome, HeadraceError):
            self.health.failed(replica, outcome, call.sent_at, now)
            self._failed(call, replica, outcome)
        else:
            # Of an answer in parts the first one tells how fast the replica is; how many follow is the request's doing.
            first_s = call.parts.attempt_first_s if call.parts is not None else None
            latency_s = now - call.sent_at if first_s is None else first_s
            self.health.answered(replica, outcome, call.sent_at, now, heard=first_s is not None)
            replica.session.observe(call.version_uid, latency_s, outcome, in_parts=first_s is not None)
            if replica.model.line:
                replica.model.pace.answered(latency_s, now)
            if call.hedge is not None:
                self.hedges.drop(call)
            call.finished(call, outcome)
        if self.line.models:
            self.line.place_free(now)

    def _failed(self, call: InferenceCall, replica: ReplicaTraffic, error: HeadraceError) -> None:
        self._note(call, replica, error)
        if call.hedge is not None:
            if error.reason in failures.ELSEWHERE or error.entry.http >= 500:
                call.last_error = error
                return
            self.hedges.drop(call)
        parts = call.parts
        if (parts is not None and not parts.may_go_on) or not self.retries.allow(call, error):
            call.finished(call, error)
            return
        if parts is not None:
            call.payload = parts.next_request()
        self._go_on(call, replica.model, error)

    def _note(self, call: InferenceCall, replica: ReplicaTraffic, error: HeadraceError) -> None:
        """Remembers what the failure of a copy of a call says about where the call may go."""
        reason = error.reason
        call.losses += reason == catalogue.RUNNER_LOST.reason
        if reason not in failures.GONE:
            call.refused_by |= {replica.token}
        if reason == catalogue.MODEL_LOADING.reason:
            self._directory.forget_model(replica.session, call.version_uid)

    def _go_on(self, call: InferenceCall, model: ModelTraffic, error: HeadraceError | None = None) -> None:
        """Sends a call again: to another replica at once, else after a pause, or when there is one."""
        if self._send_now(call, model):
            if error is not None:
                self.retries.moved(call, error)
            return
        now = self._clock.monotonic()
        if error is not None and call.refused_by and not self._may_wait(call, model, error, now):
            call.finished(call, error)
        elif not call.retry_at:
            try:
                self.line.rejoin(call, model)
            except HeadraceError as failure:
                call.finished(call, call.last_error or failure)

    def _may_wait(self, call: InferenceCall, model: ModelTraffic, error: HeadraceError, now: float) -> bool:
        """Whether a call that some replica has refused, and that no other takes now, is kept; it may pause then."""
        if call.sequence:
            replicas = self._directory.replicas(model.version.uid)
            return any(session.token not in call.refused_by for session in replicas)
        at_once = error.reason in failures.AT_ONCE and (call.parts is None or not call.parts.begun)
        if at_once or not self.retries.pause(call, error, now):
            return False
        model.paused += 1
        return True

    def _hedge(self, call: InferenceCall, now: float) -> None:
        model = self._traffic.model(call.version)
        if model.may_send:
            session = self._router.choose(call, lambda other: other is not call.session and model.usable(other))
            if session is not None:
                self.hedges.send(call, model.replica(session), now, self._hedge_answered)

    def _hedge_answered(self, hedge: Hedge, outcome: Outcome) -> None:
        call, replica = hedge.call, hedge.replica
        if call.hedge is not hedge:
            return
        now = self._clock.monotonic()
        call.hedge = None
        replica.ended()
        if not isinstance(outcome, HeadraceError):
            replica.session.observe(call.version_uid, now - hedge.sent_at, outcome)
            self.hedges.win(hedge, outcome, now)
            call.finished(call, outcome)
        else:
            self.health.failed(replica, outcome, hedge.sent_at, now)
            if call.replica is None:
                self._failed(call, replica, outcome)
            else:
                self._note(call, replica, outcome)
        if self.line.models:
            self.line.place_free(now)
