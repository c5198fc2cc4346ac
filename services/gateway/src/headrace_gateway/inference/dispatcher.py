"""Sends a call to a runner, and to another one when the first is lost before it answered."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from prometheus_client import CollectorRegistry, Counter

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import DeviceUnavailable, HeadraceError, ModelError, RunnerUnavailable
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.routing import choose, with_room
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.session_calls import Answer
from headrace_gateway.mesh.wants import Wants

ATTEMPTS_MAX = 3
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
        tried: set[str] = set()
        attempt = 0
        while True:
            session = await self._replica(dispatch, tried)
            try:
                return await self._attempt(session, dispatch, attempt)
            except HeadraceError as error:
                attempt += 1
                if error.reason not in _ELSEWHERE or attempt == ATTEMPTS_MAX:
                    raise
                if error.reason == catalogue.MODEL_LOADING.reason:
                    self._directory.forget_model(session, dispatch.version.uid)
                else:
                    tried.add(session.token)
                if error.reason == catalogue.RUNNER_OVERLOADED.reason and not self._others(dispatch, tried):
                    raise
                self._retries.labels(error.reason).inc()

    async def _attempt(self, session: RunnerSession, dispatch: Dispatch, attempt: int) -> Answer:
        sent_at = self._clock.monotonic()
        call = mesh_pb2.Call(
            attempt=attempt,
            kind=mesh_pb2.CALL_KIND_INFER,
            tenant_id=dispatch.version.tenant_id,
            version_uid=dispatch.version.uid,
            timeout_ms=max(0, int((dispatch.deadline - sent_at) * 1000)),
            priority=PRIORITY_DEFAULT,
            request_id=dispatch.request_id,
            traceparent=dispatch.traceparent,
        )
        opened = session.calls.send(call, dispatch.payload)
        try:
            answer = await opened.answer
        finally:
            session.calls.leave(opened)
        session.observe(self._clock.monotonic() - sent_at)
        return answer

    def _others(self, dispatch: Dispatch, tried: set[str]) -> list[RunnerSession]:
        return with_room(self._directory.replicas(dispatch.version.uid), len(dispatch.payload), tried)

    async def _replica(self, dispatch: Dispatch, tried: set[str]) -> RunnerSession:
        """A runner that takes the call now; waits for a load, or for a runner to come back, where that may help."""
        version = dispatch.version
        self._wants.touch(version)
        chosen = choose(self._others(dispatch, tried), version.uid, self._random)
        if chosen is not None:
            return chosen
        if self._waiting >= self._waiting_max:
            raise RunnerUnavailable(
                f"{self._waiting_max} calls wait for a model to be loaded already", entry=catalogue.RUNNER_OVERLOADED
            )
        self._waiting += 1
        alone_until = self._clock.monotonic() + RUNNER_WAIT_S
        try:
            while True:
                self._check_hope(version, tried, alone_until)
                self._wants.ask(version)
                await self._directory.wait_for_change(_LOOK_AGAIN_S)
                chosen = choose(self._others(dispatch, tried), version.uid, self._random)
                if chosen is not None:
                    return chosen
        finally:
            self._waiting -= 1

    def _check_hope(self, version: CatalogVersion, tried: set[str], alone_until: float) -> None:
        """Raises when waiting can't help: replicas are there but full, no runner fits, or all failed to load."""
        if any(session.token not in tried for session in self._directory.replicas(version.uid)):
            raise RunnerUnavailable(
                f"every runner of model '{version.model}' is at its limit of open calls",
                entry=catalogue.RUNNER_OVERLOADED,
                context={"model": version.model},
            )
        eligible = self._directory.eligible(version)
        loads = [self._directory.load_failure(session, version.uid) for session in eligible]
        failures = [failure for failure in loads if failure is not None]
        if failures and len(failures) == len(eligible):
            raise ModelError(
                f"version {version.version_text} of model '{version.model}' could not be loaded on any runner",
                entry=catalogue.MODEL_LOAD_FAILED,
                context={"model": version.model, "version": version.version_text, "cause": failures[0].reason},
            ) from failures[0]
        if not eligible and self._clock.monotonic() >= alone_until:
            raise DeviceUnavailable(
                f"no runner is connected that can run model '{version.model}'",
                entry=catalogue.RUNNER_NOT_AVAILABLE,
                context={"model": version.model, "backend": version.proto.manifest.backend},
            )
