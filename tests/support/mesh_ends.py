"""Both ends of the mesh as coroutines, for tests: calls of a gateway awaited, hosts of a runner written with await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.clock import SystemClock
from headrace_common.errors import HeadraceError
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.call import InferenceCall, Outcome
from headrace_gateway.inference.dispatcher import Dispatcher
from headrace_gateway.mesh.session_calls import Answer as GatewayAnswer
from headrace_gateway.version_meters import VersionMeters
from headrace_runner.calls import Answer, Cancel, Ended, IncomingCall

TICK_S = 0.025


@dataclass
class SentCall:
    """A call for a session, and what it was told, which may happen once."""

    payload: bytes = b""
    attempt: int = 0
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    id: int = 0
    version_uid: str = "v"
    streams: bool = False
    places: int = 1
    parts: list[bytes] = field(default_factory=list[bytes])

    def describe(self, into: mesh_pb2.Call) -> None:
        into.kind = mesh_pb2.CALL_KIND_INFER
        into.tenant_id = "t"
        into.version_uid = self.version_uid
        into.timeout_ms = 1_000

    def part(self, payload: bytes) -> None:
        self.parts.append(payload)

    def answered(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def reason(self) -> str:
        (outcome,) = self.outcomes
        assert isinstance(outcome, HeadraceError)
        return outcome.reason


class Begin(Protocol):
    """A host's `begin`."""

    def __call__(self, call: IncomingCall, ended: Ended) -> Cancel: ...


async def dispatched(
    dispatcher: Dispatcher, version: CatalogVersion, payload: bytes, *, timeout_s: float = 30.0
) -> GatewayAnswer:
    """Sends a call and waits for its outcome; cancelling cancels the call."""
    told: asyncio.Future[GatewayAnswer] = asyncio.get_running_loop().create_future()

    def finished(_call: InferenceCall, outcome: Outcome) -> None:
        if isinstance(outcome, HeadraceError):
            told.set_exception(outcome)
        else:
            told.set_result(outcome)

    now = SystemClock().monotonic()
    call = InferenceCall(
        version=version,
        request_id="r",
        traceparent="",
        priority=5,
        arrived_at=now,
        deadline=now + timeout_s,
        payload=payload,
        meters=VersionMeters((version.tenant_id, version.model, version.version_text)),
        ended=None,
        tag=0,
        finished=finished,
    )
    dispatcher.start(call)
    try:
        async with asyncio.timeout(timeout_s):
            while not told.done():
                await asyncio.wait((told,), timeout=TICK_S)
                dispatcher.tick()
            return told.result()
    except BaseException:
        dispatcher.cancel(call)
        raise


def begin_with(infer: Callable[[IncomingCall], Coroutine[Any, Any, Answer]]) -> Begin:
    """A host's `begin` that runs a coroutine for each call."""

    def begin(call: IncomingCall, ended: Ended) -> Cancel:
        task = asyncio.get_running_loop().create_task(infer(call))

        def done(_: object) -> None:
            if task.cancelled():
                return
            error = task.exception()
            if error is not None:
                assert isinstance(error, HeadraceError), error
                ended(error)
            else:
                ended(task.result())

        task.add_done_callback(done)

        def cancel() -> None:
            task.cancel()

        return cancel

    return begin
