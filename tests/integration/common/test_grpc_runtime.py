"""The server and client runtimes against each other over real grpc.aio, and against bare grpc peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2

from headrace_common import catalogue
from headrace_common.errors import (
    AuthError,
    DeadlineError,
    InternalError,
    ModelError,
    RouteError,
    RouteUnavailable,
    TensorError,
    ValidationError,
)
from headrace_common.grpc_client import Caller, open_channel, typed
from headrace_common.rpc_status import STATUS_DETAILS_KEY
from support.echo import ECHO, LIMIT, Echo, calling, keyed, say, serving, text


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
            await method(text("model").SerializeToString(), timeout=30)
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
            await typed(method(b"\x0a\xff\xff", timeout=30))
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
            await typed(upload(body(), timeout=30))
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
    async with serving(echo, call_timeout_s=0.1) as (_, address), calling(address, timeout_s=40) as caller:
        held = asyncio.ensure_future(say(caller, "hold"))
        await echo.started.wait()
        remaining_s = echo.calls[0].remaining_s()
        echo.release.set()
        assert await held == "hold"
    assert remaining_s is not None
    assert 5 < remaining_s < 42  # grpc rounds deadlines up on their way


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
        async with asyncio.timeout(30):
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
        await asyncio.wait_for(echo.stream_ended.wait(), 30)
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
    async with calling(address) as caller:
        with pytest.raises(RouteUnavailable) as unreachable:
            await say(caller, "x")
    assert unreachable.value.entry is catalogue.UPSTREAM_UNAVAILABLE
