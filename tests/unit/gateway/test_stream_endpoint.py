"""A stream's place among all streams, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from headrace_common import wire
from headrace_common.loop_load import LoopLoad
from headrace_common.principal import Principal
from headrace_common.rpc_runtime import RpcRuntime
from headrace_common.testing import FakeClock
from headrace_gateway.identity import Identity
from headrace_gateway.inference.stream_endpoint import Opening, StreamEndpoint
from headrace_gateway.policy import Access
from headrace_gateway.principal_table import PrincipalTable
from headrace_gateway.stream_access import StreamAccess

PRINCIPAL = Principal(tenant_id="acme", key_id="key", roles=frozenset({"user"}))


class Refusing:
    """The calls of a stream whose first message breaks the contract."""

    calls = failures = in_flight = waiting = 0
    full = False
    closed = False

    def on_message(self, received: bytes) -> Iterator[None]:
        raise wire.malformed()

    def next_message(self) -> bytes | None:
        return None

    def drain(self) -> None: ...

    def refuse_calls(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Transport:
    """What grpc gives a handler. The status leaves when the client has read what came before it."""

    def __init__(self) -> None:
        self.aborted: grpc.StatusCode | None = None
        self.client_has_read = asyncio.Event()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", "stream-1"),)

    def set_trailing_metadata(self, _pairs: object) -> None: ...

    def time_remaining(self) -> None: ...

    async def send_initial_metadata(self, _pairs: object) -> None: ...

    async def read(self) -> bytes:
        return b"anything"

    async def abort(self, code: grpc.StatusCode, *_rest: object) -> None:
        self.aborted = code
        await self.client_has_read.wait()
        raise grpc.aio.AbortError


async def test_a_stream_keeps_its_place_until_its_status_has_left_and_its_calls_end_at_once() -> None:
    runtime = RpcRuntime(registry=CollectorRegistry(), streams_max=1)
    identity = Identity(table=PrincipalTable(), clock=FakeClock(), community=False)
    made: list[Refusing] = []

    def open_calls(_opening: Opening) -> Refusing:
        made.append(Refusing())
        return made[-1]

    endpoint = StreamEndpoint(
        path="/p.S/Stream",
        open_calls=open_calls,
        access=StreamAccess(identity=identity, demand=Access.USER),
        load=LoopLoad(),
        runtime=runtime,
    )
    handler: Any = endpoint.handler(PRINCIPAL)
    hung, refused = Transport(), Transport()
    first = asyncio.create_task(handler.stream_stream(None, hung))
    async with asyncio.timeout(30):
        while hung.aborted is None:
            await asyncio.sleep(0)
    assert (hung.aborted, made[0].closed) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert runtime.streams.taken == 1, "whoever reads nothing can't have streams without end"
    refused.client_has_read.set()
    with pytest.raises(grpc.aio.AbortError):
        await handler.stream_stream(None, refused)
    assert refused.aborted is grpc.StatusCode.RESOURCE_EXHAUSTED
    hung.client_has_read.set()
    with pytest.raises(grpc.aio.AbortError):
        await first
    assert runtime.streams.taken == 0
    assert runtime.counts.method("/p.S/Stream").in_flight == 0
