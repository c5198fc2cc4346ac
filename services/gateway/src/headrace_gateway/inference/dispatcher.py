"""Sends a call to a runner, and to another one when the first is lost before it answered."""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from functools import partial

from prometheus_client import CollectorRegistry, Counter

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError, RunnerUnavailable
from headrace_gateway.inference.call import InferenceCall, Outcome
from headrace_gateway.inference.outlook import why_not_wait
from headrace_gateway.inference.routing import Router
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.placement import Wants

RUNNER_WAIT_S = 3.0
_LOOK_AGAIN_S = 0.5


class Dispatcher:
    """Picks a replica, sends, retries. A call that a replica takes at once costs no task. One event loop.

    Args:
        waiting_max: Calls that may wait for a model to be loaded, at most half of them of one tenant; more are refused.
    """

    def __init__(
        self,
        *,
        directory: RunnerDirectory,
        wants: Wants,
        clock: Clock,
        router: Router,
        waiting_max: int,
        registry: CollectorRegistry,
    ) -> None:
        self._directory = directory
        self._wants = wants
        self._clock = clock
        self._router = router
        self._waiting_max = waiting_max
        self._waiting: Counts[str] = Counts()
        self._retries = Counter(
            "headrace_infer_retries",
            "Calls sent to another runner, by what the first one did",
            ("reason",),
            registry=registry,
        )

    def start(self, call: InferenceCall) -> None:
        """Sends the call, or lets it wait for a replica; tells `call.finished` how it ended, unless it is cancelled.

        Raises:
            RunnerUnavailable: RUNNER_OVERLOADED (RESOURCE_EXHAUSTED): too many wait already.
        """
        self._wants.touch(call.version)
        call.routed = self._answered
        replica = self._choice(call)
        if replica is not None:
            self._send(call, replica)
            return
        tenant_id = call.version.tenant_id
        # One tenant's cold models must not keep others from waiting for theirs.
        own_max = self._waiting_max // 2
        if self._waiting.total() >= self._waiting_max or self._waiting[tenant_id] >= own_max:
            raise RunnerUnavailable(
                f"as many calls wait for models to be loaded as may: {own_max} of a tenant, {self._waiting_max} in all",
                entry=catalogue.RUNNER_OVERLOADED,
                context={"limit": own_max},
            )
        self._waiting[tenant_id] += 1
        call.waiting = asyncio.get_running_loop().create_task(self._send_when_possible(call))
        call.waiting.add_done_callback(partial(self._waited, tenant_id))

    def cancel(self, call: InferenceCall) -> None:
        """Nobody waits for the call any more: takes it back, or cancels it on the runner."""
        if call.waiting is not None:
            call.waiting.cancel()
        if call.session is not None:
            call.session.calls.leave(call.id)

    def _choice(self, call: InferenceCall) -> RunnerSession | None:
        return self._router.choose(call, lambda session: session.token not in call.refused_by)

    def _send(self, call: InferenceCall, session: RunnerSession) -> None:
        call.session = session
        call.sent_at = self._clock.monotonic()
        call.id = session.calls.send(call)

    def _answered(self, call: InferenceCall, outcome: Outcome) -> None:
        session = call.session
        assert session is not None, "only a call that was sent is answered"
        if isinstance(outcome, HeadraceError):
            self._failed(call, session, outcome)
        else:
            session.observe(call.version.uid, self._clock.monotonic() - call.sent_at, outcome)
            call.finished(call, outcome)

    def _failed(self, call: InferenceCall, session: RunnerSession, error: HeadraceError) -> None:
        if not call.goes_on_after(error):
            call.finished(call, error)
            return
        if error.reason == catalogue.MODEL_LOADING.reason:
            self._directory.forget_model(session, call.version.uid)
        elif error.reason != catalogue.RUNNER_LOST.reason:
            call.refused_by |= {session.token}
        self._retries.labels(error.reason).inc()
        try:
            self.start(call)
        except HeadraceError as refusal:
            call.finished(call, refusal)

    async def _send_when_possible(self, call: InferenceCall) -> None:
        try:
            session = await self._replica(call)
        except HeadraceError as error:
            call.finished(call, error)
        else:
            self._send(call, session)

    def _waited(self, tenant_id: str, _task: asyncio.Task[None]) -> None:
        # Not at the end of the task's coroutine: that never begins when it is cancelled at once.
        self._waiting[tenant_id] -= 1
        if not self._waiting[tenant_id]:
            del self._waiting[tenant_id]

    async def _replica(self, call: InferenceCall) -> RunnerSession:
        """Waits for a load, or for a runner to come back, where that may help."""
        patient_until = self._clock.monotonic() + RUNNER_WAIT_S
        while True:
            # Also at first: a replica may have come between the decision to wait and this task's turn.
            chosen = self._choice(call)
            if chosen is not None:
                return chosen
            self._wants.ask(call.version)
            failure = why_not_wait(
                call.version,
                self._directory,
                refused_by=call.refused_by,
                last_error=call.last_error,
                patient=self._clock.monotonic() < patient_until,
            )
            if failure is not None:
                raise failure
            await self._directory.wait_for_change(_LOOK_AGAIN_S)
