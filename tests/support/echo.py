"""A service that echoes, slowly or wrongly when asked to, over real grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from prometheus_client import CollectorRegistry

from headrace_common import catalogue
from headrace_common.call import Call, MetadataMap
from headrace_common.errors import (
    AuthError,
    ModelError,
    TensorError,
)
from headrace_common.grpc_client import Caller, open_channel
from headrace_common.grpc_server import (
    GrpcServer,
    Listener,
    RpcRuntime,
    bidi_stream,
    client_stream,
    server_stream,
    service_handler,
    unary,
)
from headrace_common.principal import Principal

ECHO = "test.Echo"
LIMIT = 1 << 20


class Echo:
    """A servicer whose behaviour the request's text chooses."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = 0
        self.stream_ended = asyncio.Event()

    async def say(self, request: StringValue, call: Call) -> StringValue:
        self.calls.append(call)
        match request.value:
            case "model":
                raise ModelError("model 'x' was not found", context={"model": "x"}, field="model_name")
            case "wordy":
                names = {f"tensor {number} {'😀' * 300}": "名" * 1_000 for number in range(100)}
                raise TensorError(f"tensor '{'😀' * 1_000}' is missing", context=names, field="入" * 1_000)
            case "bug":
                raise RuntimeError("secret detail /etc/passwd")
            case "timeout inside":
                raise TimeoutError("of some library")
            case "hold":
                self.started.set()
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
            case _:
                pass
        return StringValue(value=request.value)

    async def count(self, request: StringValue, call: Call) -> AsyncIterator[StringValue]:
        self.calls.append(call)
        try:
            for number in range(int(request.value)):
                yield StringValue(value=str(number))
            if request.value == "3":
                raise ModelError("stopped", entry=catalogue.MODEL_LOAD_FAILED)
            await asyncio.Event().wait()
        finally:
            self.stream_ended.set()

    async def join(self, requests: AsyncIterator[StringValue], call: Call) -> StringValue:
        return StringValue(value=",".join([request.value async for request in requests]))

    async def shout(self, requests: AsyncIterator[StringValue], call: Call) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield StringValue(value=request.value.upper())


def keyed(method: str, metadata: MetadataMap) -> Principal:
    match metadata.get("x-api-key"):
        case "user":
            return Principal(tenant_id="acme", roles=frozenset({"user"}), key_id="k1")
        case "admin":
            return Principal(tenant_id="acme", roles=frozenset({"admin"}), key_id="k2")
        case "defect":
            raise RuntimeError("authenticator defect")
        case _:
            raise AuthError("the call carries no credential", entry=catalogue.CREDENTIAL_MISSING)


@asynccontextmanager
async def serving(
    echo: Echo,
    *,
    authenticate: Callable[[str, MetadataMap], Principal] | None = None,
    calls_in_flight_max: int = 100,
    call_timeout_s: float = 30.0,
    registry: CollectorRegistry | None = None,
    reflection: list[str] | None = None,
    options: Sequence[tuple[str, Any]] = (),
    address: str = "127.0.0.1:0",
) -> AsyncGenerator[tuple[GrpcServer, str]]:
    runtime = RpcRuntime(
        registry=registry or CollectorRegistry(),
        calls_in_flight_max=calls_in_flight_max,
        call_timeout_s=call_timeout_s,
        message_bytes_max=LIMIT,
    )
    methods = {
        "Say": unary(echo.say, StringValue, StringValue, role="user"),
        "Administer": unary(echo.say, StringValue, StringValue, role="admin"),
        "Count": server_stream(echo.count, StringValue, StringValue, role="any"),
        "Join": client_stream(echo.join, StringValue, StringValue, role="any"),
        "Follow": server_stream(echo.count, StringValue, StringValue, role="any", endless=True),
        "Shout": bidi_stream(echo.shout, StringValue, StringValue, role="any"),
    }
    handler = service_handler(ECHO, methods, runtime=runtime, authenticate=authenticate)
    server = GrpcServer(
        listeners=[Listener(address=address)],
        handlers=[handler],
        runtime=runtime,
        reflection_services=reflection,
        options=options,
    )
    (bound,) = await server.start()
    try:
        yield server, bound
    finally:
        await server.stop(0)


@asynccontextmanager
async def calling(address: str, *metadata: tuple[str, str], timeout_s: float = 30.0) -> AsyncGenerator[Caller]:
    async with open_channel(address, own_connection=True) as channel:
        yield Caller(channel=channel, metadata=lambda: metadata, timeout_s=timeout_s)


def text(value: str) -> StringValue:
    return StringValue(value=value)


async def say(caller: Caller, value: str, **options: Any) -> str:
    return (await caller.unary(f"/{ECHO}/Say", text(value), StringValue, **options)).value
