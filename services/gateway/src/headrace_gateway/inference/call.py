"""One inference between its admission and its one outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.request_id import trace_id_of
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.session_calls import Answer
from headrace_gateway.version_meters import VersionMeters

ATTEMPTS_MAX = 3
LOSSES_MAX = 1

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

Outcome: TypeAlias = Answer | HeadraceError
Ended: TypeAlias = "Callable[[InferenceCall, Outcome], None]"


class Caller(NamedTuple):
    """Who calls, and until when the answer is wanted.

    Attributes:
        timeout_s: Time left of the client's deadline, or the gateway's cap where the client set none.
        priority: 0 to 9, 9 is most urgent; None leaves it to the request's parameters.
    """

    tenant_id: str
    request_id: str
    traceparent: str
    timeout_s: float
    priority: int | None = None


@dataclass(slots=True, eq=False)
class InferenceCall:
    """A call and what has happened to it so far. Event loop only.

    Attributes:
        payload: The client's ModelInferRequest, as it came.
        arrived_at: Reading of the monotonic clock, as `deadline` is, at which the answer is worth nothing any more.
        ended: Told once how the call ended; None when that was told or nobody wants to know any more.
        tag: Whatever `ended` knows the call by.
        finished: Told by whoever learns first how the call ended: the handler, which tells `ended`.
        routed: Told what a runner answered: the dispatcher, which may try another one.
        attempt: How often it was sent to some runner before.
        refused_by: Tokens of the sessions that have refused it.
        session: Who has it now; `id` is its identifier there and `sent_at` when it went.
        waiting: The task that waits for a replica on its behalf.
        latency_critical: Whether it may not be sent to a replica only because that one is cheap.
    """

    version: CatalogVersion
    request_id: str
    traceparent: str
    priority: int
    arrived_at: float
    deadline: float
    payload: bytes
    meters: VersionMeters
    ended: Ended | None
    tag: int
    finished: Ended
    routed: Ended | None = None
    attempt: int = 0
    losses: int = 0
    last_error: HeadraceError | None = None
    refused_by: frozenset[str] = frozenset()
    session: RunnerSession | None = None
    id: int = 0
    sent_at: float = 0.0
    waiting: asyncio.Task[None] | None = None
    latency_critical: bool = False

    @property
    def version_uid(self) -> str:
        """What a session counts it by."""
        return self.version.uid

    def describe(self, into: mesh_pb2.Call) -> None:
        """Writes what a runner must know beside the payload."""
        version = self.version
        into.tenant_id = version.tenant_id
        into.version_uid = version.uid
        into.timeout_ms = max(0, int((self.deadline - self.sent_at) * 1000))
        into.priority = self.priority
        into.request_id = self.request_id
        if self.traceparent:
            into.traceparent = self.traceparent

    def answered(self, outcome: Outcome) -> None:
        """What the session says that has the call."""
        assert self.routed is not None, "a call is routed before it is sent"
        self.routed(self, outcome)

    def goes_on_after(self, error: HeadraceError) -> bool:
        """Whether the call may be sent again. One that two runners died of is not given a third."""
        self.attempt += 1
        self.losses += error.reason == catalogue.RUNNER_LOST.reason
        self.last_error = error
        return error.reason in _ELSEWHERE and self.attempt < ATTEMPTS_MAX and self.losses <= LOSSES_MAX


def accept_traceparent(value: str | bytes | None) -> str:
    """The caller's trace context, empty where it is absent or malformed."""
    return value if isinstance(value, str) and trace_id_of(value) else ""
