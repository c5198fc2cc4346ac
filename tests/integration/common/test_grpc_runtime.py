"""The server and client runtimes against each other over real grpc.aio, and against bare grpc peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry

from headrace_common import catalogue
from headrace_common.call import Call, MetadataMap
from headrace_common.errors import (
    AuthError,
    DeadlineError,
    InitializationError,
    InternalError,
    ModelError,
    RouteError,
    RouteUnavailable,
    TensorError,
    ValidationError,
)
from headrace_common.grpc_client import Caller, open_channel, typed
from headrace_common.grpc_server import (
    GrpcServer,
    Listener,
    RpcRuntime,
    bidi_stream,
    client_stream,
    refuse_call,
    server_stream,
    service_handler,
    unary,
)
from headrace_common.principal import Principal
from headrace_common.rpc_status import STATUS_DETAILS_KEY
from support.eventually import eventually

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
    call_timeout_s: float = 5.0,
    registry: CollectorRegistry | None = None,
    reflection: list[str] | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> AsyncIterator[tuple[GrpcServer, str]]:
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
        listeners=[Listener(address="127.0.0.1:0")],
        handlers=[handler],
        runtime=runtime,
        reflection_services=reflection,
        options=options,
    )
    (address,) = await server.start()
    try:
        yield server, address
    finally:
        await server.stop(0)


@asynccontextmanager
async def calling(address: str, *metadata: tuple[str, str], timeout_s: float = 5.0) -> AsyncIterator[Caller]:
    async with open_channel(address, own_connection=True) as channel:
        yield Caller(channel=channel, metadata=lambda: metadata, timeout_s=timeout_s)


def text(value: str) -> StringValue:
    return StringValue(value=value)


async def say(caller: Caller, value: str, **options: Any) -> str:
    return (await caller.unary(f"/{ECHO}/Say", text(value), StringValue, **options)).value


async def test_all_four_kinds_of_calls_carry_messages() -> None:
    async def parts() -> AsyncIterator[StringValue]:
        for part in ("a", "b", "c"):
            yield text(part)

    async with serving(Echo()) as (_, address), calling(address) as caller:
        assert await say(caller, "hello") == "hello"
        assert (await caller.upload(f"/{ECHO}/Join", parts(), StringValue)).value == "a,b,c"
        counted: list[str] = []
        async for message in caller.stream(f"/{ECHO}/Count", text("2"), StringValue):
            counted.append(message.value)
            if len(counted) == 2:
                break
        assert counted == ["0", "1"]
        async with grpc.aio.insecure_channel(address) as channel:
            bidi: Any = channel.stream_stream(f"/{ECHO}/Shout")
            call = bidi(part.SerializeToString() async for part in parts())
            assert [StringValue.FromString(raw).value async for raw in call] == ["A", "B", "C"]


async def test_a_typed_failure_crosses_the_wire_with_all_its_parts() -> None:
    async with serving(Echo()) as (_, address), calling(address) as caller:
        with pytest.raises(ModelError) as caught:
            await say(caller, "model")
    error = caught.value
    assert type(error) is ModelError
    assert (error.entry, error.message) == (catalogue.MODEL_NOT_FOUND, "model 'x' was not found")
    assert (error.context, error.field) == ({"model": "x"}, "model_name")


async def test_a_bare_client_reads_google_rpc_details() -> None:
    async with serving(Echo()) as (_, address), grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.unary_unary(f"/{ECHO}/Say")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(text("model").SerializeToString(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "model 'x' was not found"
    raw: Any = dict(caught.value.trailing_metadata())[STATUS_DETAILS_KEY]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(raw).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("MODEL_NOT_FOUND", "headrace")
    assert dict(info.metadata) == {"code": "MODEL_001", "model": "x"}


@pytest.mark.parametrize("trigger", ["bug", "timeout inside"])
async def test_an_unforeseen_failure_is_internal_with_a_correlation_id_and_no_detail(
    trigger: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(Echo()) as (_, address), calling(address) as caller:
        with pytest.raises(InternalError) as caught:
            await say(caller, trigger)
    assert caught.value.correlation_id
    assert "secret" not in caught.value.message
    assert "library" not in caught.value.message
    output = capfd.readouterr()
    assert caught.value.correlation_id in output.out + output.err


async def test_malformed_bytes_are_refused_with_fixed_text() -> None:
    async with serving(Echo()) as (_, address), grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.unary_unary(f"/{ECHO}/Say")
        with pytest.raises(ValidationError) as caught:
            await typed(method(b"\x0a\xff\xff", timeout=5))
    assert caught.value.entry is catalogue.REQUEST_MALFORMED
    assert caught.value.message == "the request is not a valid protobuf message"


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + (1 << 20)])
async def test_an_oversized_message_is_refused_by_its_code(size: int) -> None:
    async with serving(Echo()) as (_, address), calling(address) as caller:
        with pytest.raises(ValidationError) as caught:
            await say(caller, "x" * size)
        assert caught.value.entry is catalogue.MESSAGE_TOO_LARGE
        assert await say(caller, "still there") == "still there"


async def test_options_of_the_caller_win_over_ours_on_both_ends() -> None:
    largest = "grpc.max_receive_message_length"
    async with serving(Echo(), options=[(largest, 8 * LIMIT)]) as (_, address):
        async with calling(address) as caller:
            # Our own limit would have grpc refuse this before our code can name the limit.
            with pytest.raises(ValidationError, match=str(LIMIT)):
                await say(caller, "x" * (7 * LIMIT))
        async with open_channel(address, own_connection=True, options=[(largest, 100)]) as channel:
            with pytest.raises(ValidationError, match="larger than the peer accepts"):
                await say(Caller(channel=channel, metadata=tuple, timeout_s=5.0), "x" * 1_000)


async def test_without_a_credential_the_call_is_refused_before_its_body_is_read() -> None:
    echo = Echo()
    async with serving(echo, authenticate=keyed) as (_, address), grpc.aio.insecure_channel(address) as channel:
        asked_for = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal asked_for
            while True:
                asked_for += 1
                yield text("x" * 60_000).SerializeToString()

        upload: Any = channel.stream_unary(f"/{ECHO}/Join")
        with pytest.raises(AuthError) as caught:
            await typed(upload(body(), timeout=5))
    assert caught.value.entry is catalogue.CREDENTIAL_MISSING
    assert asked_for < 100  # flow control stopped the client: nobody read on the other side
    assert echo.calls == []


async def test_roles_decide_by_method() -> None:
    echo = Echo()
    async with serving(echo, authenticate=keyed) as (_, address):
        async with calling(address, ("x-api-key", "user")) as caller:
            assert await say(caller, "mine") == "mine"
            with pytest.raises(AuthError) as caught:
                await caller.unary(f"/{ECHO}/Administer", text("no"), StringValue)
            assert caught.value.entry is catalogue.ROLE_FORBIDDEN
        async with calling(address, ("x-api-key", "admin")) as caller:
            assert (await caller.unary(f"/{ECHO}/Administer", text("yes"), StringValue)).value == "yes"
    assert echo.calls[0].principal.tenant_id == "acme"
    assert [call.principal.key_id for call in echo.calls] == ["k1", "k2"]


async def test_a_defect_in_the_authenticator_refuses() -> None:
    echo = Echo()
    async with serving(echo, authenticate=keyed) as (_, address), calling(address, ("x-api-key", "defect")) as caller:
        with pytest.raises(InternalError):
            await say(caller, "x")
    assert echo.calls == []


async def test_the_request_id_is_kept_and_returned_and_a_bad_one_replaced() -> None:
    echo = Echo()
    async with serving(echo) as (_, address), grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.unary_unary(f"/{ECHO}/Say")
        for given, trace in (("req-1", f"00-{'a' * 32}-{'b' * 16}-01"), ("bad id!", "nonsense")):
            call = method(
                text("x").SerializeToString(), timeout=5, metadata=(("x-request-id", given), ("traceparent", trace))
            )
            await call
            assert dict(await call.trailing_metadata())["x-request-id"] == echo.calls[-1].request_id
    assert echo.calls[0].request_id == "req-1"
    assert echo.calls[0].trace_id == "a" * 32
    assert len(echo.calls[1].request_id) == 32
    assert echo.calls[1].trace_id is None


async def test_a_call_without_a_deadline_ends_at_the_servers_cap() -> None:
    echo = Echo()
    async with serving(echo, call_timeout_s=0.2) as (_, address), grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.unary_unary(f"/{ECHO}/Say")
        with pytest.raises(DeadlineError) as caught:
            await typed(method(text("hold").SerializeToString()))
    assert caught.value.entry is catalogue.CALL_TIMEOUT
    assert caught.value.context["method"] == f"/{ECHO}/Say"
    assert echo.cancelled == 1


async def test_a_clients_longer_deadline_outlives_the_servers_cap() -> None:
    echo = Echo()
    async with serving(echo, call_timeout_s=0.1) as (_, address), calling(address, timeout_s=10) as caller:
        held = asyncio.ensure_future(say(caller, "hold"))
        await echo.started.wait()
        remaining_s = echo.calls[0].remaining_s()
        echo.release.set()
        assert await held == "hold"
    assert remaining_s is not None
    assert 5 < remaining_s < 11  # grpc rounds deadlines up on their way


async def test_calls_above_the_limit_are_refused_and_places_come_back() -> None:
    echo = Echo()
    async with serving(echo, calls_in_flight_max=1) as (_, address), calling(address) as caller:
        held = asyncio.ensure_future(say(caller, "hold"))
        await echo.started.wait()
        with pytest.raises(RouteUnavailable) as caught:
            await say(caller, "x")
        assert caught.value.entry is catalogue.SERVER_OVERLOADED
        assert caught.value.retry_after_s is not None
        echo.release.set()
        await held
        assert await say(caller, "again") == "again"


async def test_a_cancelled_call_cancels_its_servicer_and_frees_its_place() -> None:
    echo = Echo()
    async with serving(echo, calls_in_flight_max=1) as (_, address), calling(address) as caller:
        held = asyncio.ensure_future(say(caller, "hold"))
        await echo.started.wait()
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await say(caller, "free") == "free"
                    break
                except RouteUnavailable:
                    await asyncio.sleep(0.01)
    assert echo.cancelled == 1


async def test_leaving_a_stream_ends_its_servicer() -> None:
    echo = Echo()
    async with serving(echo) as (_, address), calling(address) as caller:
        stream = caller.stream(f"/{ECHO}/Count", text("1"), StringValue)
        assert (await anext(stream)).value == "0"
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(echo.stream_ended.wait(), 5)
    assert echo.calls[0].remaining_s() is None


async def test_a_failure_of_long_texts_in_any_script_reaches_the_client_typed() -> None:
    async with serving(Echo()) as (_, address), calling(address) as caller:
        with pytest.raises(TensorError) as caught:
            await say(caller, "wordy")
    assert caught.value.entry is catalogue.TENSOR_SHAPE_MISMATCH
    assert caught.value.message.startswith("tensor '😀😀")
    assert caught.value.field is not None
    assert set(caught.value.field) == {"入"}
    assert any(name.startswith("tensor 0 😀") for name in caught.value.context)


async def test_a_failure_in_mid_stream_is_typed() -> None:
    async with serving(Echo()) as (_, address), calling(address) as caller:
        seen: list[str] = []
        with pytest.raises(ModelError) as caught:
            async for message in caller.stream(f"/{ECHO}/Count", text("3"), StringValue):
                seen.append(message.value)  # noqa: PERF401 - what came before the failure counts
    assert seen == ["0", "1", "2"]
    assert caught.value.entry is catalogue.MODEL_LOAD_FAILED


async def test_an_exception_of_the_uploaded_parts_reaches_the_caller() -> None:
    async def parts() -> AsyncIterator[StringValue]:
        yield text("a")
        raise FileNotFoundError("model.onnx")

    async with serving(Echo()) as (_, address), calling(address) as caller:
        with pytest.raises(FileNotFoundError):
            await caller.upload(f"/{ECHO}/Join", parts(), StringValue)


async def test_an_unknown_method_and_an_unreachable_server_are_typed() -> None:
    async with serving(Echo()) as (_, address), calling(address) as caller:
        with pytest.raises(RouteError) as caught:
            await caller.unary(f"/{ECHO}/Missing", text("x"), StringValue)
        assert caught.value.entry is catalogue.METHOD_UNKNOWN
    async with calling(address, timeout_s=2) as caller:
        with pytest.raises(RouteUnavailable) as unreachable:
            await say(caller, "x")
    assert unreachable.value.entry is catalogue.UPSTREAM_UNAVAILABLE


async def test_a_client_finds_a_restarted_server_within_two_seconds() -> None:
    async with serving(Echo()) as (first, address), calling(address) as caller:
        assert await say(caller, "one") == "one"
        await first.stop(0)
        with pytest.raises(RouteUnavailable):
            await say(caller, "gone")
        runtime = RpcRuntime(registry=CollectorRegistry())
        handler = service_handler(ECHO, {"Say": unary(Echo().say, StringValue, StringValue)}, runtime=runtime)
        second = GrpcServer(listeners=[Listener(address=address)], handlers=[handler], runtime=runtime)
        await second.start()
        try:
            assert await say(caller, "two", wait_for_ready=True, timeout_s=3) == "two"
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


async def test_stop_ends_endless_streams_at_once_and_says_why() -> None:
    echo = Echo()
    async with serving(echo) as (server, address), calling(address) as caller:
        stream = caller.stream(f"/{ECHO}/Follow", text("1"), StringValue)
        assert (await anext(stream)).value == "0"
        stopping = asyncio.ensure_future(server.stop(60))
        with pytest.raises(RouteUnavailable) as caught:
            await anext(stream)
        await asyncio.wait_for(stopping, 5)
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
        assert await method(b"abc", timeout=5) == b"cba"
        method = channel.unary_unary("/test.Raw/Refuse")
        with pytest.raises(ModelError):
            await typed(method(b"x" * 100_000, timeout=5))
    await server.stop(0)


def test_a_method_without_a_policy_does_not_start() -> None:
    runtime = RpcRuntime(registry=CollectorRegistry())
    method = unary(Echo.say, StringValue, StringValue)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Say"):
        service_handler(ECHO, {"Say": method}, runtime=runtime, authenticate=keyed)
