"""Sends a call to a runner, and to another one when the first is lost before it answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from prometheus_client import CollectorRegistry, Counter

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError, RunnerUnavailable
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.outlook import why_not_wait
from headrace_gateway.inference.routing import choose, with_room
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.session_calls import Answer, CallHeader
from headrace_gateway.mesh.wants import Wants

ATTEMPTS_MAX = 3
LOSSES_MAX = 1
RUNNER_WAIT_S = 3.0
_LOOK_AGAIN_S = 0.5
PRIORITY_DEFAULT = 5

# Failures of one runner that say nothing about another.
_ELSEWHERE = frozenset(
    entry.reason
    for entry in (
        catalogue.RUNNER_LOST,
        catalogue.RUNNER_DRAINING,
        catalogue.RUNNER_OVERLOADED,
        catalogue.MODEL_LOADING,
        catalogue.DEVICE_OUT_OF_MEMORY,
    )
)


@dataclass(slots=True)
class _Course:
    """What has happened to one call so far."""

    attempt: int = 0
    losses: int = 0
    last_error: HeadraceError | None = None
    refused_by: set[str] = field(default_factory=set[str])

    def goes_on_after(self, error: HeadraceError) -> bool:
        """Whether the call may be sent again. One that two runners died of is not given a third."""
        self.attempt += 1
        self.losses += error.reason == catalogue.RUNNER_LOST.reason
        self.last_error = error
        return error.reason in _ELSEWHERE and self.attempt < ATTEMPTS_MAX and self.losses <= LOSSES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """One call on its way through the dispatcher.

    Attributes:
        deadline: `Clock.monotonic()` value at which the answer is worth nothing any more.
        payload: The client's ModelInferRequest, as it came.
    """

    version: CatalogVersion
    request_id: str
    traceparent: str
    deadline: float
    payload: bytes


class Dispatcher:
    """Picks a replica, sends, waits, retries. Cancelling `infer` cancels the call on the runner.

    Args:
        waiting_max: Calls that may wait for a model to be loaded; more are refused.
    """

    def __init__(
        self,
        *,
        directory: RunnerDirectory,
        wants: Wants,
        clock: Clock,
        random: Random,
        waiting_max: int,
        registry: CollectorRegistry,
    ) -> None:
        self._directory = directory
        self._wants = wants
        self._clock = clock
        self._random = random
        self._waiting_max = waiting_max
        self._waiting = 0
        self._retries = Counter(
            "headrace_infer_retries",
            "Calls sent to another runner, by what the first one did",
            ("reason",),
            registry=registry,
        )

    async def infer(self, dispatch: Dispatch) -> Answer:
        """The runner's answer.

        Raises:
            HeadraceError: What the runner answered, or RUNNER_LOST, RUNNER_OVERLOADED, RUNNER_NOT_AVAILABLE,
                MODEL_LOAD_FAILED when no runner could.
        """
        course = _Course()
        while True:
            session = await self._replica(dispatch, course)
            try:
                return await self._attempt(session, dispatch, course.attempt)
            except HeadraceError as error:
                if not course.goes_on_after(error):
                    raise
                if error.reason == catalogue.MODEL_LOADING.reason:
                    self._directory.forget_model(session, dispatch.version.uid)
                elif error.reason != catalogue.RUNNER_LOST.reason:
                    course.refused_by.add(session.token)
                self._retries.labels(error.reason).inc()

    async def _attempt(self, session: RunnerSession, dispatch: Dispatch, attempt: int) -> Answer:
        sent_at = self._clock.monotonic()
        header = CallHeader(
            attempt=attempt,
            tenant_id=dispatch.version.tenant_id,
            version_uid=dispatch.version.uid,
            timeout_ms=max(0, int((dispatch.deadline - sent_at) * 1000)),
            priority=PRIORITY_DEFAULT,
            request_id=dispatch.request_id,
            traceparent=dispatch.traceparent,
        )
        opened = session.calls.send(header, dispatch.payload)
        try:
            answer = await opened.answer
        finally:
            session.calls.leave(opened)
        session.observe(self._clock.monotonic() - sent_at)
        return answer

    def _choice(self, dispatch: Dispatch, course: _Course) -> RunnerSession | None:
        replicas = self._directory.replicas(dispatch.version.uid)
        candidates = with_room(replicas, len(dispatch.payload), course.refused_by)
        return choose(candidates, dispatch.version.uid, self._random)

    async def _replica(self, dispatch: Dispatch, course: _Course) -> RunnerSession:
        """A runner that takes the call now; waits for a load, or for a runner to come back, where that may help."""
        version = dispatch.version
        self._wants.touch(version)
        chosen = self._choice(dispatch, course)
        if chosen is not None:
            return chosen
        if self._waiting >= self._waiting_max:
            raise RunnerUnavailable(
                f"{self._waiting_max} calls wait for a model to be loaded already", entry=catalogue.RUNNER_OVERLOADED
            )
        self._waiting += 1
        patient_until = self._clock.monotonic() + RUNNER_WAIT_S
        try:
            while True:
                self._wants.ask(version)
                failure = why_not_wait(
                    version,
                    self._directory,
                    refused_by=course.refused_by,
                    last_error=course.last_error,
                    patient=self._clock.monotonic() < patient_until,
                )
                if failure is not None:
                    raise failure
                await self._directory.wait_for_change(_LOOK_AGAIN_S)
                chosen = self._choice(dispatch, course)
                if chosen is not None:
                    return chosen
        finally:
            self._waiting -= 1
