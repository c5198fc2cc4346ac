"""One Generate RPC: what is left of it when its client doesn't read, and when its key is worth nothing any more."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from headrace.gateway.v1.generation_pb2 import GenerateRequest
from headrace_common.errors import AuthError, RouteUnavailable
from headrace_common.principal import Principal
from headrace_common.rpc_runtime import RpcRuntime
from headrace_gateway.features import Features
from headrace_gateway.identity import Metadata
from headrace_gateway.inference import tenant_streams
from headrace_gateway.inference.call import InferenceCall
from headrace_gateway.inference.endpoint import OneRequestEndpoint
from headrace_gateway.inference.generation.generate_service import GenerateService
from headrace_gateway.inference.tenant_streams import TenantStreams
from headrace_gateway.policy import Access
from headrace_gateway.principal_table import PrincipalTable
from headrace_gateway.stream_access import StreamAccess
from support.gateway_core import GatewayCore
from support.generated_texts import GENERATES, delta, last

PRINCIPAL = Principal(tenant_id="acme", key_id="key", roles=frozenset({"user"}))
REQUEST = GenerateRequest(model_name="m", text="once").SerializeToString()


class Transport:
    """What grpc gives a handler; its client reads nothing after so many messages, and not what comes behind them."""

    def __init__(self, *, reads: int = 0) -> None:
        self.aborted: grpc.StatusCode | None = None
        self.said = ""
        self.client_reads = asyncio.Event()
        self.written: list[bytes] = []
        self._reads = reads

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", "g"),)

    def set_trailing_metadata(self, _pairs: object) -> None: ...

    def time_remaining(self) -> None: ...

    async def send_initial_metadata(self, _pairs: object) -> None: ...

    async def write(self, message: bytes) -> None:
        self.written.append(message)
        if len(self.written) > self._reads:
            await self.client_reads.wait()

    async def abort(self, code: grpc.StatusCode, said: str, _trailing: object) -> NoReturn:
        self.aborted, self.said = code, said
        if len(self.written) > self._reads:
            await self.client_reads.wait()
        raise grpc.aio.AbortError


class Credential:
    """Knows the one caller until it is revoked."""

    revoked = False

    def authenticate(self, _metadata: Metadata) -> Principal:
        if self.revoked:
            raise AuthError("the key was revoked")
        return PRINCIPAL


class Stage:
    """A model that generates, and one RPC."""

    def __init__(self, *, reads: int) -> None:
        self.core = GatewayCore()
        self.runner = self.core.join()
        self.runner.loaded(self.core.register("m", manifest=GENERATES))
        self.runtime = RpcRuntime(registry=CollectorRegistry())
        self.credential = Credential()
        identity: Any = self.credential
        endpoint = OneRequestEndpoint(
            path="/p.S/Generate",
            serve=GenerateService(inference=self.core.handler, payloads=self.core.payloads).generate,
            access=StreamAccess(identity=identity, features=Features(table=PrincipalTable()), demand=Access.USER),
            streams=TenantStreams(gate=self.runtime.streams, limit=1),
            log=None,
            runtime=self.runtime,
        )
        self.endpoint = endpoint
        handler: Any = endpoint.handler(PRINCIPAL)
        self.transport = Transport(reads=reads)
        self.rpc: asyncio.Task[None] = asyncio.create_task(handler.unary_stream(REQUEST, self.transport))

    async def until(self, what: str) -> None:
        async with asyncio.timeout(30):
            while not getattr(self, what):
                await asyncio.sleep(0)

    @property
    def asked(self) -> bool:
        return bool(self.runner.received())

    @property
    def stuck(self) -> bool:
        return bool(self.transport.written)

    @property
    def aborted(self) -> bool:
        return self.transport.aborted is not None

    @property
    def place_taken(self) -> int:
        return self.runtime.streams.taken


async def test_a_reader_that_is_cut_gives_its_place_back_at_once_and_its_status_waits_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(reads=0)
    await stage.until("asked")
    (call,) = stage.runner.received()
    stage.runner.part(call, delta("x" * (200 << 10), 1))
    await stage.until("stuck")
    assert stage.place_taken == 1
    monkeypatch.setattr(tenant_streams, "STATUS_S", 0.0)
    for _ in range(5):
        stage.runner.part(call, delta("x" * (200 << 10), 1))
        stage.runner.received()
    assert stage.runner.cancelled == [call.id]
    await stage.until("aborted")
    assert (stage.transport.aborted, stage.place_taken) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0)
    async with asyncio.timeout(30):
        await stage.rpc
    assert len(stage.transport.written) == 1
    assert stage.runtime.counts.method("/p.S/Generate").in_flight == 0
    with pytest.raises(RouteUnavailable) as refused:
        stage.endpoint.handler(PRINCIPAL)
    assert (refused.value.reason, refused.value.context["scope"]) == ("CONCURRENCY_EXCEEDED", "tenant")
    stage.transport.client_reads.set()
    for _ in range(3):
        await asyncio.sleep(0)
    stage.endpoint.handler(PRINCIPAL)


def held_calls(stage: Stage) -> list[InferenceCall]:
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, InferenceCall) and found.version is stage.core.catalog.resolve("acme", "m", "1")
    ]


@pytest.mark.parametrize("parts", [0, 1], ids=["the last message", "a part"])
async def test_what_is_left_when_a_text_has_ended_is_not_kept_for_ever(
    parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_streams, "UNREAD_S", 0.0)
    monkeypatch.setattr(tenant_streams, "STATUS_S", 0.0)
    stage = Stage(reads=0)
    await stage.until("asked")
    (call,) = stage.runner.received()
    for _ in range(parts):
        stage.runner.part(call, delta("a", 1))
        await stage.until("stuck")
    meters = held_calls(stage)[0].meters
    stage.runner.answer(call, last("b", 2))
    assert [found for found in held_calls(stage) if found.payload or (found.parts and found.parts.request)] == []
    assert stage.core.payloads.held_bytes > len(REQUEST), "grpc holds it"
    async with asyncio.timeout(30):
        await stage.rpc
    assert (stage.transport.aborted, stage.place_taken) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0)
    assert stage.transport.said == "the end was not read within 0 s"
    assert (stage.core.payloads.held_bytes, meters.generation.readers_too_slow) == (0, 0)


async def test_a_key_that_is_revoked_ends_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_gateway.stream_access.CHECK_S", 0.0)
    stage = Stage(reads=9)
    await stage.until("asked")
    (call,) = stage.runner.received()
    stage.runner.part(call, delta("a", 1))
    await stage.until("stuck")
    stage.credential.revoked = True
    with pytest.raises(grpc.aio.AbortError):
        await asyncio.wait_for(stage.rpc, 30)
    assert (stage.transport.aborted, stage.place_taken) == (grpc.StatusCode.UNAUTHENTICATED, 0)
    stage.runner.received()
    assert stage.runner.cancelled == [call.id]
