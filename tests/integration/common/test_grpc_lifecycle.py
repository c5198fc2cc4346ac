"""Restarts, stops, limits and leftovers of the server and client runtimes, over real grpc.aio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from prometheus_client import CollectorRegistry

from headrace_common import catalogue
from headrace_common.errors import (
    AuthError,
    InitializationError,
    ModelError,
    RouteUnavailable,
)
from headrace_common.grpc_client import Caller, typed
from headrace_common.grpc_server import (
    GrpcServer,
    Listener,
    RpcRuntime,
    refuse_call,
    service_handler,
    unary,
)
from support.breaking_proxy import breaking_proxy
from support.echo import ECHO, Echo, calling, keyed, say, serving, text
from support.eventually import eventually
from support.processes import HeldPort


async def test_a_server_that_takes_a_moment_to_greet_is_waited_for() -> None:
    async with (
        serving(Echo()) as (_, address),
        breaking_proxy(address, pause_s=0.5) as slow,
        calling(slow.address) as caller,
    ):
        assert await say(caller, "one") == "one"


async def test_a_client_finds_a_restarted_server_within_two_seconds(port: HeldPort) -> None:
    # The best of some: a busy machine may take longer once, but not each time.
    assert min([await found_again(port.address) for _ in range(3)]) < 2


async def found_again(address: str) -> float:
    """Seconds that a client takes to find a server that is there again."""
    async with serving(Echo(), address=address) as (first, _), calling(address) as caller:
        assert await say(caller, "one") == "one"
        await first.stop(0)
        with pytest.raises(RouteUnavailable):
            await say(caller, "gone")
        runtime = RpcRuntime(registry=CollectorRegistry())
        handler = service_handler(ECHO, {"Say": unary(Echo().say, StringValue, StringValue)}, runtime=runtime)
        second = GrpcServer(listeners=[Listener(address=address)], handlers=[handler], runtime=runtime)
        await second.start()
        try:
            started_at = time.monotonic()
            assert await say(caller, "two", wait_for_ready=True) == "two"
            return time.monotonic() - started_at
        finally:
            await second.stop(0)


async def test_metrics_count_by_method_code_and_reason() -> None:
    registry = CollectorRegistry()
    async with serving(Echo(), registry=registry, authenticate=keyed) as (_, address):
        async with calling(address, ("x-api-key", "user")) as caller:
            await say(caller, "x")
            with pytest.raises(ModelError):
                await say(caller, "model")
        async with calling(address) as stranger:
            with pytest.raises(AuthError):
                await say(stranger, "x")

    def handled(code: str, reason: str) -> float | None:
        labels = {"method": f"/{ECHO}/Say", "grpc_code": code, "reason": reason}
        return registry.get_sample_value("headrace_rpc_handled_total", labels)

    assert handled("OK", "") == 1
    assert handled("NOT_FOUND", "MODEL_NOT_FOUND") == 1
    assert handled("UNAUTHENTICATED", "CREDENTIAL_MISSING") == 1
    assert registry.get_sample_value("headrace_rpc_in_flight", {"method": f"/{ECHO}/Say"}) == 0


async def test_stop_lets_running_calls_finish_within_the_grace() -> None:
    echo = Echo()
    async with serving(echo) as (server, address), calling(address) as caller:
        held = asyncio.ensure_future(say(caller, "hold"))
        await echo.started.wait()
        stopping = asyncio.ensure_future(server.stop(5))
        await asyncio.sleep(0)
        echo.release.set()
        assert await held == "hold"
        await stopping


@asynccontextmanager
async def two_on_a_port(echo: Echo | None = None) -> AsyncGenerator[tuple[GrpcServer, Caller]]:
    """A server, a caller that is connected to it, and another server where calls go that the first refuses."""
    shared = [("grpc.so_reuseport", 1)]
    async with serving(echo or Echo(), options=shared) as (server, address), calling(address) as caller:
        await say(caller, "connected")
        async with serving(Echo(), options=shared, address=address):
            yield server, caller


@pytest.mark.fault  # On a machine with ten processes for each core, a silence may be none.
async def test_stop_answers_calls_that_had_come_and_were_not_taken() -> None:
    async with two_on_a_port() as (server, caller):
        calls = [asyncio.ensure_future(say(caller, str(number), wait_for_ready=True)) for number in range(200)]
        await calls[0]
        assert not all(call.done() for call in calls)
        stopping = asyncio.ensure_future(server.stop(10))
        assert await asyncio.gather(*calls) == [str(number) for number in range(200)]
        await stopping


async def test_stop_answers_the_next_calls_of_those_whose_calls_were_running() -> None:
    echo = Echo()
    async with two_on_a_port(echo) as (server, caller):
        held = [asyncio.ensure_future(say(caller, "hold")) for _ in range(20)]
        await eventually(lambda: len(echo.calls) == 21)
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0.1)  # longer than a silence would be
        echo.release.set()
        assert await asyncio.gather(*held) == ["hold"] * 20
        assert await asyncio.gather(*(say(caller, "next", wait_for_ready=True) for _ in range(20))) == ["next"] * 20
        await stopping
    assert len(echo.calls) == 41, "it still served them itself"


async def test_calls_of_every_kind_that_come_during_a_stop_are_answered() -> None:
    async with two_on_a_port() as (server, caller):
        stopping = asyncio.ensure_future(server.stop(10))
        await asyncio.sleep(0)
        said = asyncio.ensure_future(say(caller, "x"))
        joined = asyncio.ensure_future(caller.upload(f"/{ECHO}/Join", two_texts(), StringValue))
        with pytest.raises(ModelError, match="stopped"):
            assert [count.value async for count in caller.stream(f"/{ECHO}/Count", text("3"), StringValue)] == []
        assert (await said, (await joined).value) == ("x", "a,b")
        await stopping


async def two_texts() -> AsyncIterator[StringValue]:
    for value in "ab":
        yield text(value)


async def test_stop_does_not_wait_for_callers_that_never_pause() -> None:
    async with two_on_a_port() as (server, caller):
        calls: set[asyncio.Future[str]] = set()

        async def call_on() -> None:
            while True:
                calls.add(asyncio.ensure_future(say(caller, "x")))
                await asyncio.sleep(0.001)

        calling_on = asyncio.ensure_future(call_on())
        await eventually(lambda: len(calls) > 10)
        await asyncio.wait_for(server.stop(60), 30)
        calling_on.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_stop_ends_endless_streams_at_once_and_says_why() -> None:
    echo = Echo()
    async with serving(echo) as (server, address), calling(address) as caller:
        stream = caller.stream(f"/{ECHO}/Follow", text("1"), StringValue)
        assert (await anext(stream)).value == "0"
        stopping = asyncio.ensure_future(server.stop(60))
        with pytest.raises(RouteUnavailable) as caught:
            await anext(stream)
        await asyncio.wait_for(stopping, 30)
    assert caught.value.entry is catalogue.SERVER_DRAINING
    assert echo.stream_ended.is_set()


async def test_calls_cancelled_at_random_moments_leave_nothing_behind() -> None:
    echo, registry, random = Echo(), CollectorRegistry(), Random(7)
    async with serving(echo, registry=registry) as (_, address), calling(address) as caller:
        assert await say(caller, "warm")
        before = len(asyncio.all_tasks())

        async def cancelled(value: str) -> None:
            call = asyncio.ensure_future(say(caller, value))
            await asyncio.sleep(random.random() * 0.01)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

        for _round in range(10):
            await asyncio.gather(*(cancelled(random.choice(["hold", "quick", "model"])) for _ in range(50)))
        in_flight = {"method": f"/{ECHO}/Say"}
        await eventually(lambda: registry.get_sample_value("headrace_rpc_in_flight", in_flight) == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
        assert await say(caller, "still there") == "still there"


async def test_a_taken_address_is_a_typed_failure() -> None:
    async with serving(Echo()) as (_, address):
        runtime = RpcRuntime(registry=CollectorRegistry())
        second = GrpcServer(listeners=[Listener(address=address)], handlers=[], runtime=runtime)
        with pytest.raises(InitializationError) as caught:
            await second.start()
        assert caught.value.entry is catalogue.LISTEN_FAILED


async def test_a_handler_of_ones_own_stands_beside_services_and_can_refuse_early() -> None:
    class Raw(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            if handler_call_details.method == "/test.Raw/Pass":

                async def passed(request: bytes, _context: Any) -> bytes:
                    return request[::-1]

                return grpc.unary_unary_rpc_method_handler(passed)
            if handler_call_details.method == "/test.Raw/Refuse":
                return refuse_call(ModelError("no"), {})
            return None

    runtime = RpcRuntime(registry=CollectorRegistry())
    server = GrpcServer(
        listeners=[Listener(address="127.0.0.1:0")], handlers=[Raw()], runtime=runtime, health_services=["test.Raw"]
    )
    (address,) = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.unary_unary("/test.Raw/Pass")
        assert await method(b"abc", timeout=30) == b"cba"
        method = channel.unary_unary("/test.Raw/Refuse")
        with pytest.raises(ModelError):
            await typed(method(b"x" * 100_000, timeout=30))
    await server.stop(0)


def test_a_method_without_a_policy_does_not_start() -> None:
    runtime = RpcRuntime(registry=CollectorRegistry())
    method = unary(Echo.say, StringValue, StringValue)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Say"):
        service_handler(ECHO, {"Say": method}, runtime=runtime, authenticate=keyed)
