"""The packed stream against a gateway that keeps to the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from headrace_client.async_client import AsyncClient
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import StreamCall
from headrace_client.errors import (
    CallCancelled,
    InferenceTimeout,
    ModelError,
    ModelUnavailable,
    ValidationError,
)
from headrace_client.inference import InferResult
from headrace_client.stream import WAITING_CALLS_MAX, InferStream
from headrace_common import catalogue, errors
from support.eventually import eventually
from support.stream_clients import number_of, numbered, stream_to, transport_to
from support.stream_gateway import ServedStream, StreamGateway, limits_of, serving


@pytest.fixture
async def gateway() -> AsyncIterator[StreamGateway]:
    async with serving() as gateway:
        yield gateway


@pytest.fixture
async def stream(gateway: StreamGateway) -> AsyncIterator[InferStream]:
    async with stream_to(gateway.address) as stream:
        yield stream


def hold(gateway: StreamGateway) -> None:
    """Lets calls come without answering them."""
    gateway.respond = lambda stream, call: None


async def test_calls_that_wait_together_share_a_message(gateway: StreamGateway, stream: InferStream) -> None:
    results = await asyncio.gather(
        *(stream.infer("echo", {"x": np.array([number])}) for number in range(500)),
    )
    assert [number_of(result) for result in results] == list(range(500))
    assert len(gateway.streams) == 1
    assert len(gateway.streams[0].messages) == 1


async def test_every_one_of_many_calls_gets_its_own_answer(stream: InferStream) -> None:
    async def caller(first: int) -> None:
        for number in range(first, 10_000, 64):
            assert number_of(await stream.infer("echo", {"x": np.array([number])})) == number

    async with asyncio.timeout(100):
        await asyncio.gather(*map(caller, range(64)))


async def test_a_call_carries_all_that_it_was_given(gateway: StreamGateway, stream: InferStream) -> None:
    traceparent = f"00-{'1' * 32}-{'2' * 16}-01"
    result = await stream.infer(
        "echo",
        {"x": np.zeros((2, 3), np.float32), "name": [b"a", b"\x00\xff"]},
        version=7,
        outputs=["x"],
        parameters={"depth": 3},
        priority=9,
        timeout_s=45.0,
        request_id="mine",
        traceparent=traceparent,
    )
    (call,) = gateway.every_call
    request = call.infer.request
    assert (request.model_name, request.model_version, request.id) == ("echo", "7", "mine")
    assert (call.infer.priority, call.request_id, call.traceparent) == (9, "mine", traceparent)
    assert 25.0 < call.timeout.ToMilliseconds() / 1000 <= 45.0
    assert request.outputs[0].name == "x" and request.parameters["depth"].int64_param == 3
    assert result.id == "mine" and result.execution.runner == "runner-0"
    assert result["x"].shape == (2, 3) and result["name"].tolist() == [b"a", b"\x00\xff"]
    assert gateway.metadata["x-api-key"] == "the-key"


async def test_no_limit_of_the_server_is_exceeded() -> None:
    # The gateway ends a stream that has more calls in a message, or in flight, than it said.
    limits = limits_of(calls_max=7, calls_per_message_max=3, bytes_max=600)
    async with serving(limits) as gateway, stream_to(gateway.address) as stream:
        results = await asyncio.gather(*(stream.infer("echo", {"x": np.array([n])}) for n in range(300)))
    assert [number_of(result) for result in results] == list(range(300))
    assert len(gateway.streams) == 1


async def test_cancelling_the_task_cancels_the_call_at_the_server(gateway: StreamGateway, stream: InferStream) -> None:
    hold(gateway)
    task = asyncio.create_task(stream.infer("echo", {"x": np.array([1])}))
    await eventually(lambda: len(gateway.every_call) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: gateway.streams[0].sent_cancels == [1])
    assert gateway.streams[0].calls == {}


async def test_a_call_cancelled_while_it_waits_is_never_sent(gateway: StreamGateway, stream: InferStream) -> None:
    futures = [await stream.submit_request(numbered(number)) for number in range(3)]
    futures[1].cancel()
    assert [number_of(await futures[0]), number_of(await futures[2])] == [0, 2]
    assert len(gateway.every_call) == 2
    assert gateway.streams[0].sent_cancels == []


async def test_a_call_over_its_time_fails_here_and_the_stream_lives(
    gateway: StreamGateway, stream: InferStream
) -> None:
    hold(gateway)
    # A call whose time is over before it was sent is not cancelled anywhere.
    while not gateway.every_call:
        with pytest.raises(InferenceTimeout):
            await stream.infer("echo", {"x": np.array([1])}, timeout_s=0.1)
    await eventually(lambda: gateway.streams[0].sent_cancels == [call.id for call in gateway.every_call])
    gateway.respond = ServedStream.answer
    assert number_of(await stream.infer("echo", {"x": np.array([2])})) == 2
    assert len(gateway.streams) == 1


async def test_a_call_over_its_time_fails_in_time_while_others_come_and_go(
    gateway: StreamGateway, stream: InferStream
) -> None:
    gateway.respond = lambda served, call: served.answer(call) if call.id != 2 else None
    await stream.infer("echo", {"x": np.array([1])})
    held = await stream.submit_request(numbered(0, timeout_s=0.3))

    async def busy() -> None:
        while not held.done():
            await stream.infer("echo", {"x": np.array([1])}, timeout_s=20)

    async with asyncio.timeout(15):
        await busy()
    with pytest.raises(InferenceTimeout):
        await held


async def test_failures_of_single_calls_are_typed_and_concern_nobody_else(
    gateway: StreamGateway, stream: InferStream
) -> None:
    missing = errors.ModelError("model 'x' was not found", context={"model": "x"}, field="model_name")
    gateway.respond = lambda served, call: (
        served.refuse(call, missing) if call.infer.request.model_name == "x" else served.answer(call)
    )
    good, bad = await asyncio.gather(
        stream.infer("echo", {"x": np.array([1])}), stream.infer("x", {"x": np.array([1])}), return_exceptions=True
    )
    assert isinstance(bad, ModelError) and not isinstance(good, BaseException)
    assert (bad.reason, bad.context["model"], bad.field) == ("MODEL_NOT_FOUND", "x", "model_name")
    assert len(gateway.every_call) == 2


async def test_a_failure_that_may_pass_is_tried_again_with_the_same_id(
    gateway: StreamGateway, stream: InferStream
) -> None:
    loading = errors.ModelUnavailable("it is loading", entry=catalogue.MODEL_LOADING, retry_after_s=0.02)
    gateway.respond = lambda served, call: (
        served.refuse(call, loading) if len(gateway.every_call) < 3 else served.answer(call)
    )
    result = await stream.infer("echo", {"x": np.array([1])}, request_id="same")
    assert number_of(result) == 1
    assert [call.request_id for call in gateway.every_call] == ["same"] * 3
    gateway.respond = lambda served, call: served.refuse(call, loading)
    with pytest.raises(ModelUnavailable):
        await stream.infer("echo", {"x": np.array([1])})
    assert len(gateway.every_call) == 3 + 4


async def test_second_answers_and_answers_to_nobody_do_no_harm(gateway: StreamGateway, stream: InferStream) -> None:
    def thrice(served: ServedStream, call: StreamCall) -> None:
        served.answer(StreamCall(id=987_654))
        served.answer(call)
        served.answer(call)

    gateway.respond = thrice
    for number in range(3):
        assert number_of(await stream.infer("echo", {"x": np.array([number])})) == number


async def test_a_request_larger_than_a_message_may_be_fails_alone() -> None:
    async with serving(limits_of(message_bytes_max=10_000)) as gateway, stream_to(gateway.address) as stream:
        large, small = await asyncio.gather(
            stream.infer("echo", {"x": np.zeros(20_000)}),
            stream.infer("echo", {"x": np.zeros(1)}),
            return_exceptions=True,
        )
    assert isinstance(large, ValidationError) and large.reason == "MESSAGE_TOO_LARGE"
    assert not isinstance(small, BaseException)


async def test_a_request_that_is_alone_and_too_large_leaves_the_stream_as_it_was() -> None:
    async with (
        asyncio.timeout(30),
        serving(limits_of(message_bytes_max=10_000)) as gateway,
        stream_to(gateway.address) as stream,
    ):
        for number in range(3):
            with pytest.raises(ValidationError) as refused:
                await stream.infer("echo", {"x": np.zeros(20_000)})
            assert refused.value.reason == "MESSAGE_TOO_LARGE"
            assert number_of(await stream.infer("echo", {"x": np.array([number])})) == number
    assert len(gateway.streams) == 1


async def test_a_time_without_measure_is_a_day_and_concerns_nobody_else(
    gateway: StreamGateway, stream: InferStream
) -> None:
    endless, other = await asyncio.gather(
        stream.infer("echo", {"x": np.array([1])}, timeout_s=1e20), stream.infer("echo", {"x": np.array([2])})
    )
    assert (number_of(endless), number_of(other)) == (1, 2)
    assert 86_390 < max(call.timeout.ToSeconds() for call in gateway.every_call) <= 86_400


async def test_requests_that_can_not_be_right_never_leave(gateway: StreamGateway, stream: InferStream) -> None:
    for wrong in ({"priority": 10}, {"timeout_s": float("nan")}, {"timeout_s": 0}, {"request_id": "ä"}):
        with pytest.raises(ValidationError):
            await stream.infer("echo", {"x": np.array([1])}, **wrong)  # type: ignore[arg-type]
    assert gateway.streams == []


async def test_submit_waits_while_the_queue_is_full_and_goes_on_when_a_call_leaves(gateway: StreamGateway) -> None:
    hold(gateway)
    gateway.limits = limits_of(calls_max=1)
    async with stream_to(gateway.address) as stream:
        futures = [await stream.submit_request(numbered(number)) for number in range(WAITING_CALLS_MAX)]
        await eventually(lambda: len(gateway.every_call) == 1)
        futures.append(await stream.submit_request(numbered(0)))
        blocked = asyncio.ensure_future(stream.submit_request(numbered(1)))
        with pytest.raises(InferenceTimeout):
            await stream.submit_request(numbered(2, timeout_s=0.05))
        assert not blocked.done()
        futures[500].cancel()
        futures.append(await blocked)
        for future in futures:
            future.cancel()


async def test_a_paused_server_gets_what_it_has_room_for_when_it_reads_again(
    gateway: StreamGateway, stream: InferStream
) -> None:
    assert number_of(await stream.infer("echo", {"x": np.array([1])})) == 1
    gateway.streams[0].reading.clear()
    large = [asyncio.ensure_future(stream.infer("echo", {"x": np.full(100_000, number)})) for number in range(50)]
    done, _ = await asyncio.wait(large, timeout=0.1)
    assert not done
    gateway.streams[0].reading.set()
    results = await asyncio.gather(*large)
    assert [int(result["x"][99_999]) for result in results] == list(range(50))


async def test_leaving_the_block_waits_for_what_is_under_way_and_half_closes(gateway: StreamGateway) -> None:
    hold(gateway)
    async with stream_to(gateway.address) as stream:
        future = await stream.submit_request(numbered(1))
        await eventually(lambda: len(gateway.every_call) == 1)
        served = gateway.streams[0]
        asyncio.get_running_loop().call_later(0.05, served.answer, served.calls[1])
    assert future.done() and number_of(future.result()) == 1
    assert served.half_closed
    with pytest.raises(CallCancelled):
        await stream.infer("echo", {"x": np.array([2])})


async def test_leaving_the_block_by_an_exception_cancels_what_is_under_way(gateway: StreamGateway) -> None:
    hold(gateway)
    futures: list[asyncio.Future[InferResult]] = []
    with pytest.raises(ZeroDivisionError):
        async with stream_to(gateway.address) as stream:
            futures.append(await stream.submit_request(numbered(1)))
            await eventually(lambda: len(gateway.every_call) == 1)
            futures.append(await stream.submit_request(numbered(2)))
            raise ZeroDivisionError
    assert len(futures) == 2
    for future in futures:
        with pytest.raises(CallCancelled):
            future.result()


async def test_a_close_that_is_interrupted_cancels_what_is_under_way(gateway: StreamGateway) -> None:
    hold(gateway)
    before = asyncio.all_tasks()
    async with transport_to(gateway.address) as transport:
        stream = InferStream(transport=transport)
        future = await stream.submit_request(numbered(1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.close()
        with pytest.raises(CallCancelled):
            future.result()
        left = {task for task in asyncio.all_tasks() - before if task.get_name().startswith("headrace")}
        assert not left


async def test_a_stream_that_is_aborted_as_it_opens_ends_at_the_server(gateway: StreamGateway) -> None:
    hold(gateway)
    async with transport_to(gateway.address) as transport:
        stream = InferStream(transport=transport)
        future = await stream.submit_request(numbered(1))
        while not stream.engine._connections:
            await asyncio.sleep(0)
        await stream.abort()
        assert isinstance(future.exception(), CallCancelled)
        await eventually(lambda: gateway.streams[0].is_over)


async def test_answers_that_share_a_message_may_be_more_than_the_largest_alone(gateway: StreamGateway) -> None:
    """A gateway shares messages among answers up to 1 MiB, whatever this client takes."""
    together: list[StreamCall] = []

    def respond(served: ServedStream, call: StreamCall) -> None:
        together.append(call)
        if len(together) == 2:
            for one in together:
                served.answer(one)

    gateway.respond = respond
    async with (
        AsyncClient(gateway.address, message_bytes_max=600_000, timeout_s=30) as client,
        client.stream() as stream,
    ):
        results = await asyncio.gather(*(stream.infer("echo", {"x": np.full(500_000, n, np.int8)}) for n in range(2)))
    assert [number_of(result) for result in results] == [0, 1]


async def test_closing_a_stream_that_was_never_used_does_nothing(gateway: StreamGateway) -> None:
    async with stream_to(gateway.address):
        pass
    assert gateway.streams == []
