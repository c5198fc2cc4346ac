"""A stream's place among all streams, however it ends."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from headrace_common import wire
from headrace_common.errors import AuthError, RouteUnavailable
from headrace_common.loop_load import LoopLoad
from headrace_common.principal import Principal
from headrace_common.rpc_runtime import RpcRuntime
from headrace_gateway.features import Features
from headrace_gateway.inference import tenant_streams
from headrace_gateway.inference.stream_endpoint import Opening, StreamEndpoint
from headrace_gateway.inference.tenant_streams import TenantStreams
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


class Answering(Refusing):
    """The calls of a stream that has something to say at once."""

    in_flight = waiting = 1

    def on_message(self, received: bytes) -> Iterator[None]:
        return iter(())

    def next_message(self) -> bytes | None:
        return b"answer"


class Transport:
    """What grpc gives a handler. The status leaves when the client has read what came before it."""

    def __init__(self) -> None:
        self.aborted: grpc.StatusCode | None = None
        self.client_has_read = asyncio.Event()
        self.reads = 0

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", "stream-1"),)

    def set_trailing_metadata(self, _pairs: object) -> None: ...

    def time_remaining(self) -> None: ...

    async def send_initial_metadata(self, _pairs: object) -> None: ...

    async def read(self) -> bytes:
        self.reads += 1
        if self.reads > 1:
            await asyncio.Event().wait()
        return b"anything"

    async def write(self, _message: bytes) -> None:
        await asyncio.Event().wait()

    async def abort(self, code: grpc.StatusCode, *_rest: object) -> None:
        self.aborted = code
        await self.client_has_read.wait()
        raise grpc.aio.AbortError


class Stage:
    """An endpoint that takes one stream of all, and two of a tenant."""

    def __init__(self, calls: type[Refusing]) -> None:
        self.runtime = RpcRuntime(registry=CollectorRegistry(), streams_max=1)
        self.made: list[Refusing] = []
        self.known = True
        identity: Any = self

        def open_calls(_opening: Opening) -> Refusing:
            self.made.append(calls())
            return self.made[-1]

        self.endpoint = StreamEndpoint(
            path="/p.S/Stream",
            open_calls=open_calls,
            access=StreamAccess(identity=identity, features=Features(table=PrincipalTable()), demand=Access.USER),
            streams=TenantStreams(gate=self.runtime.streams, limit=2),
            load=LoopLoad(),
            runtime=self.runtime,
        )

    def authenticate(self, _metadata: object) -> Principal:
        if not self.known:
            raise AuthError("the key was revoked")
        return PRINCIPAL

    def open(self, transport: Transport) -> asyncio.Task[None]:
        handler: Any = self.endpoint.handler(PRINCIPAL)
        return asyncio.create_task(handler.stream_stream(None, transport))

    @property
    def in_flight(self) -> int:
        return self.runtime.counts.method("/p.S/Stream").in_flight


async def test_a_stream_that_failed_leaves_its_place_at_once_but_its_tenants_with_its_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tenant_streams, "STATUS_S", 0.0)
    stage = Stage(Refusing)
    hung = [Transport(), Transport()]
    for number, transport in enumerate(hung):
        await asyncio.wait_for(stage.open(transport), 30)
        assert (transport.aborted, stage.made[number].closed) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        assert (stage.runtime.streams.taken, stage.in_flight) == (0, 0)
    with pytest.raises(RouteUnavailable, match="2 streams open"):
        stage.open(Transport())
    stage.endpoint.handler(dataclasses.replace(PRINCIPAL, tenant_id="other"))
    hung[0].client_has_read.set()
    for _ in range(3):
        await asyncio.sleep(0)
    stage.endpoint.handler(PRINCIPAL)


@pytest.mark.parametrize(
    ("patched", "code"),
    [
        ("headrace_gateway.inference.tenant_streams.UNREAD_S", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("headrace_gateway.stream_access.CHECK_S", grpc.StatusCode.UNAUTHENTICATED),
    ],
    ids=["nobody reads", "its key is revoked"],
)
async def test_a_write_that_waits_does_not_keep_a_stream(
    patched: str, code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patched, 0.0)
    monkeypatch.setattr(tenant_streams, "STATUS_S", 0.0)
    stage = Stage(Answering)
    stage.known = code is not grpc.StatusCode.UNAUTHENTICATED
    transport = Transport()
    await asyncio.wait_for(stage.open(transport), 30)
    assert (transport.aborted, stage.runtime.streams.taken, stage.in_flight) == (code, 0, 0)
    assert stage.made[0].closed


async def test_streams_of_all_tenants_are_bounded_together() -> None:
    stage = Stage(Answering)
    first, refused = Transport(), Transport()
    serving = stage.open(first)
    async with asyncio.timeout(30):
        while not stage.runtime.streams.taken:
            await asyncio.sleep(0)
    refused.client_has_read.set()
    with pytest.raises(grpc.aio.AbortError):
        await stage.open(refused)
    assert refused.aborted is grpc.StatusCode.RESOURCE_EXHAUSTED
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert (stage.runtime.streams.taken, stage.in_flight) == (0, 0)
