"""Calls that no replica takes now: whether they wait, and when they go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice

from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError
from headrace_common.latency_counts import LatencyCounts
from headrace_gateway.inference.call import InferenceCall
from headrace_gateway.inference.outlook import circuit_open, no_runner, out_of_time, too_late, why_not_wait
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.inference.resilience.replica_health import ReplicaHealth
from headrace_gateway.inference.resilience.traffic import ModelTraffic
from headrace_gateway.inference.resilience.waiting_calls import WaitingCalls, shed
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.placement import Wants

RUNNER_WAIT_S = 3.0
_LOOK_AGAIN_S = 0.5
# Tenants that are looked at for each place that becomes free; others keep their turn for the next one, or the tick.
_LOOKS_MAX = 8
# Models of a tenant that are looked at then.
_PASSES_MAX = 3
# Calls of sequences that are passed over because their own replica is busy, before the line has to wait.
_PASSED_MAX = 8


class WaitingLine:
    """Lets calls wait without a task for each, and wakes as many as there is room for. One event loop.

    Args:
        send: Sends a call of a model if a replica takes it now.

    Attributes:
        waited: How long calls waited that were sent in the end.
        models: Those with waiting calls.
        shed: Calls that had to make room for more urgent ones, by priority.
    """

    def __init__(
        self,
        *,
        directory: RunnerDirectory,
        wants: Wants,
        health: ReplicaHealth,
        limits: ResilienceLimits,
        clock: Clock,
        send: Callable[[InferenceCall, ModelTraffic], bool],
    ) -> None:
        self.waited = LatencyCounts()
        self.shed: dict[int, int] = {}
        self._directory = directory
        self._wants = wants
        self._health = health
        self._clock = clock
        self._send = send
        self._calls = WaitingCalls(limits=limits)
        self.models = self._calls.models
        self._look_due = False
        self._look_at = 0.0
        directory.add_listener(self._runner_changed)

    def join(self, call: InferenceCall, model: ModelTraffic) -> None:
        """The call waits from now on.

        Raises:
            HeadraceError: CONCURRENCY_EXCEEDED (RESOURCE_EXHAUSTED), CIRCUIT_OPEN (UNAVAILABLE), DEADLINE_UNREACHABLE
                (DEADLINE_EXCEEDED), or why the model can't be loaded.
        """
        now = self._clock.monotonic()
        has_replica = self._has_replica(model, now)
        needed_s = self._needed_s(call, model, now)
        if needed_s and now + needed_s > call.deadline:
            raise too_late(model.version, needed_s)
        victim = self._calls.admit(call, model)
        if victim is not None:
            self._calls.leave(victim, self._health.traffic.model(victim.version))
            self.shed[victim.priority] = self.shed.get(victim.priority, 0) + 1
            victim.finished(victim, shed(victim.priority))
        self._enter(call, model, now, has_replica)

    def rejoin(self, call: InferenceCall, model: ModelTraffic) -> None:
        """Like `join`, for a call that was let in before: there is always a place for it, before its equals."""
        now = self._clock.monotonic()
        self._enter(call, model, now, self._has_replica(model, now), front=True)

    def leave(self, call: InferenceCall) -> None:
        """Nobody wants the call any more."""
        self._calls.leave(call, self._health.traffic.model(call.version))

    def place_free(self, now: float) -> None:
        """A call has ended somewhere: the next one goes. To be told only while there are `models`."""
        for _ in range(min(_PASSES_MAX, len(self.models))):
            for model in self._calls.next(_LOOKS_MAX):
                if self._serve_first(model, now):
                    return

    def tick(self, now: float) -> None:
        """To be called many times a second."""
        if self.models:
            if now >= self._look_at:
                self._look_at = now + _LOOK_AGAIN_S
                self._look()
            self._serve(now)

    def _enter(
        self, call: InferenceCall, model: ModelTraffic, now: float, has_replica: bool, *, front: bool = False
    ) -> None:
        self._calls.enter(call, model, now, front=front)
        self._calls.set_turning(model, has_replica)

    def _needed_s(self, call: InferenceCall, model: ModelTraffic, now: float) -> float:
        call_s = model.call_s(self._directory.replicas(model.version.uid)) if model.line else 0.0
        return model.pace.needed_s(call.priority, model.line.count, now, call_s=call_s, sent=model.sent)

    def _has_replica(self, model: ModelTraffic, now: float) -> bool:
        """Like `_check_outlook`, but where calls wait for a replica already it leaves that to the next `_look`."""
        if model.line and not self._directory.replicas(model.version.uid):
            return False
        return self._check_outlook(model, now)

    def _check_outlook(self, model: ModelTraffic, now: float) -> bool:
        """Whether the model has a replica; raises what a call fails with that need not wait."""
        version = model.version
        if self._directory.replicas(version.uid):
            open_for_s = self._health.open_for_s(model, now)
            if open_for_s is not None:
                raise circuit_open(version, open_for_s)
            return True
        self._wants.ask(version)
        failure = why_not_wait(version, self._directory, patient=True)
        if failure is not None:
            raise failure
        return False

    def _runner_changed(self, _runner_id: str) -> None:
        if self.models and not self._look_due:
            # Once for all that changes in a turn of the event loop.
            self._look_due = True
            asyncio.get_running_loop().call_soon(self._look_and_serve)

    def _look_and_serve(self) -> None:
        self._look_due = False
        self._look()
        self._serve(self._clock.monotonic())

    def _look(self) -> None:
        """Ends the calls that need not wait any more, and notes which models have replicas."""
        now = self._clock.monotonic()
        for model in tuple(self.models):
            if not model.line:
                continue
            failure: HeadraceError | None = None
            since = now
            try:
                has_replica = self._check_outlook(model, now)
            except HeadraceError as error:
                failure = error
            else:
                self._calls.set_turning(model, has_replica)
                if not has_replica and not self._directory.eligible(model.version):
                    failure, since = no_runner(model.version), now - RUNNER_WAIT_S
            if failure is not None:
                self._fail(model, failure, since)

    def _fail(self, model: ModelTraffic, failure: HeadraceError, since: float) -> None:
        """Ends the calls that have waited since then or longer."""
        for call in tuple(model.line):
            # The end of one may have ended others.
            if 0.0 < call.waits_since <= since:
                self._calls.leave(call, model)
                call.finished(call, call.last_error or failure)

    def _serve(self, now: float) -> None:
        """Sends all calls that replicas take, one of each tenant in turn."""
        stuck: set[ModelTraffic] = set()
        while not self._calls.all_turning_in(stuck):
            for model in self._calls.next(len(self.models)):
                if model in stuck:
                    # The tenant's next model may be luckier.
                    self._calls.passed(model)
                elif self._serve_first(model, now):
                    # A turn was taken: from the first one again.
                    break
                else:
                    stuck.add(model)

    def _serve_first(self, model: ModelTraffic, now: float) -> bool:
        """Sends the first call of a model that a replica takes, if there is one."""
        latency_s = model.pace.latency_s(now)
        while (call := model.line.first()) is not None and call.deadline < now + latency_s:
            # Too little time left for an answer: it is told so while there is some, else by whoever watches deadlines.
            self._calls.leave(call, model)
            if now < call.deadline:
                call.finished(call, call.last_error or out_of_time(model.version, latency_s))
        if call is not None and model.may_send:
            for waiting in (call,) if not call.sequence else (call, *islice(model.line, _PASSED_MAX)):
                if self._send(waiting, model):
                    self.waited.observe(now - waiting.waits_since)
                    self._calls.sent(waiting, model)
                    model.pace.left(waiting.priority, now, last=not model.line.count(waiting.priority))
                    return True
                if not waiting.sequence:
                    break
        if model.line:
            self._calls.passed(model)
        return False
