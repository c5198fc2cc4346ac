"""One Generate RPC: what is left of it when its client doesn't read, and when its key is worth nothing any more."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from headrace.gateway.v1.generation_pb2 import GenerateRequest
from headrace_common.errors import AuthError, RouteUnavailable
from headrace_common.principal import Principal
from headrace_common.rpc_runtime import RpcRuntime
from headrace_gateway.identity import Metadata
from headrace_gateway.inference import unread_ends
from headrace_gateway.inference.endpoint import OneRequestEndpoint
from headrace_gateway.inference.generation import generate_service
from headrace_gateway.inference.generation.generate_service import GenerateService
from headrace_gateway.inference.unread_ends import UnreadEnds
from headrace_gateway.policy import Access
from headrace_gateway.stream_access import StreamAccess
from support.gateway_core import GatewayCore
from support.generated_texts import GENERATES, delta, last

PRINCIPAL = Principal(tenant_id="acme", key_id="key", roles=frozenset({"user"}))
REQUEST = GenerateRequest(model_name="m", text="once").SerializeToString()


class Transport:
    """What grpc gives a handler; its client reads nothing after so many messages, and not what comes behind them."""

    def __init__(self, *, reads: int = 0) -> None:
        self.aborted: grpc.StatusCode | None = None
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
            await asyncio.Event().wait()

    async def abort(self, code: grpc.StatusCode, *_rest: object) -> NoReturn:
        self.aborted = code
        if len(self.written) > self._reads:
            await asyncio.Event().wait()
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
            serve=GenerateService(inference=self.core.handler).generate,
            access=StreamAccess(identity=identity, demand=Access.USER),
            log=None,
            runtime=self.runtime,
        )
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
    monkeypatch.setattr(unread_ends, "STATUS_S", 0.0)
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


async def test_a_tenant_may_leave_only_so_many_ends_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = UnreadEnds(limit=1)

    async def leaving(read: asyncio.Event) -> None:
        await read.wait()
        raise grpc.aio.AbortError

    read = asyncio.Event()
    read.set()
    with pytest.raises(grpc.aio.AbortError):
        await ends.send("acme", leaving(read))
    read.clear()
    monkeypatch.setattr(unread_ends, "STATUS_S", 0.0)
    ends.check("acme")
    await ends.send("acme", leaving(read))
    with pytest.raises(RouteUnavailable) as refused:
        ends.check("acme")
    assert (refused.value.reason, refused.value.context["scope"]) == ("CONCURRENCY_EXCEEDED", "tenant")
    ends.check("other")
    read.set()
    for _ in range(3):
        await asyncio.sleep(0)
    ends.check("acme")


@pytest.mark.parametrize("parts", [0, 1], ids=["the last message", "a part"])
async def test_what_is_left_when_a_text_has_ended_is_not_kept_for_ever(
    parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate_service, "_END_S", 0.0)
    monkeypatch.setattr(unread_ends, "STATUS_S", 0.0)
    stage = Stage(reads=0)
    await stage.until("asked")
    (call,) = stage.runner.received()
    for _ in range(parts):
        stage.runner.part(call, delta("a", 1))
        await stage.until("stuck")
    stage.runner.answer(call, last("b", 2))
    async with asyncio.timeout(30):
        await stage.rpc
    assert (stage.transport.aborted, stage.place_taken) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0)


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
