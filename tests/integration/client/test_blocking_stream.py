"""The packed stream for threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

import numpy as np
import pytest

from headrace_client import blocking_stream
from headrace_client.blocking_stream import BlockingStream
from headrace_client.client import Client
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import StreamCall
from headrace_client.errors import CallCancelled, InferenceTimeout, ValidationError
from headrace_client.inference import InferResult
from support.eventually import eventually
from support.stream_clients import number_of, numbered
from support.stream_gateway import ServedStream, StreamGateway, serving


def on_a_thread(gateway: StreamGateway, use: Callable[[BlockingStream], None]) -> asyncio.Future[None]:
    """Runs a blocking caller beside the gateway, which lives on this loop."""

    def run() -> None:
        with Client(gateway.address, timeout_s=30) as client, client.stream() as stream:
            use(stream)

    return asyncio.ensure_future(asyncio.to_thread(run))


def unanswered(gateway: StreamGateway) -> set[int]:
    """The numbers of the calls that the gateway holds."""
    requests = [call.infer.request for call in gateway.streams[0].calls.values()]
    return {int(np.frombuffer(request.raw_input_contents[0], np.int64)[0]) for request in requests}


async def test_threads_share_a_stream_and_each_call_gets_its_own_answer() -> None:
    def use(stream: BlockingStream) -> None:
        def caller(first: int) -> None:
            for number in range(first, 400, 8):
                assert number_of(stream.infer("echo", {"x": np.array([number])})) == number

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(caller, range(8)))

    async with serving() as gateway:
        await on_a_thread(gateway, use)
        assert len(gateway.streams) == 1
        assert len(gateway.every_call) == 400


async def test_calls_submitted_together_share_messages() -> None:
    def use(stream: BlockingStream) -> None:
        futures = [stream.submit("echo", {"x": np.array([number])}) for number in range(2_000)]
        assert [number_of(future.result(30)) for future in futures] == list(range(2_000))

    async with serving() as gateway:
        await on_a_thread(gateway, use)
        assert len(gateway.streams[0].messages) < 1_000


async def test_cancelling_a_future_cancels_its_call_and_wakes_who_waits_for_it() -> None:
    sent, done = threading.Event(), threading.Event()

    def use(stream: BlockingStream) -> None:
        future = stream.submit("echo", {"x": np.array([1])})
        assert sent.wait(30)
        assert future.cancel() and future.cancel()
        assert wait([future], 30).done
        with pytest.raises(CancelledError):
            future.result(30)
        done.set()

    async with serving() as gateway:
        gateway.respond = lambda served, call: sent.set()
        task = on_a_thread(gateway, use)
        await eventually(done.is_set)
        await eventually(lambda: gateway.streams[0].sent_cancels == [1])
        await task


async def test_submit_blocks_while_too_many_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking_stream, "OPEN_CALLS_MAX", 3)
    full = threading.Event()

    def use(stream: BlockingStream) -> None:
        futures = [stream.submit_request(numbered(number)) for number in range(3)]
        with pytest.raises(InferenceTimeout):
            stream.submit_request(numbered(3, timeout_s=0.05))
        futures[0].cancel()
        futures.append(stream.submit_request(numbered(4)))
        full.set()
        assert [number_of(future.result(10)) for future in futures[1:]] == [1, 2, 4]

    async with serving() as gateway:
        gateway.respond = lambda served, call: None
        task = on_a_thread(gateway, use)
        await eventually(full.is_set)
        await eventually(lambda: unanswered(gateway) == {1, 2, 4})
        for call in list(gateway.streams[0].calls.values()):
            gateway.streams[0].answer(call)
        await task


async def test_requests_that_can_not_be_right_take_no_room() -> None:
    def use(stream: BlockingStream) -> None:
        for _ in range(10):
            with pytest.raises(ValidationError):
                stream.submit("echo", {"x": np.array([1])}, timeout_s=float("inf"))
        assert stream._open_calls == 0

    async with serving() as gateway:
        await on_a_thread(gateway, use)


async def test_an_exception_in_the_block_cancels_what_is_under_way() -> None:
    futures: list[Future[InferResult]] = []

    def use(stream: BlockingStream) -> None:
        futures.append(stream.submit_request(numbered(1)))
        raise ZeroDivisionError

    async with serving() as gateway:
        gateway.respond = lambda served, call: None
        with pytest.raises(ZeroDivisionError):
            await on_a_thread(gateway, use)
    with pytest.raises(CallCancelled):
        futures[0].result(0)


async def test_closing_the_client_ends_calls_of_streams_that_are_open() -> None:
    def run(address: str) -> None:
        client = Client(address, timeout_s=30)
        stream = client.stream()
        future = stream.submit_request(numbered(1))
        client.close()
        with pytest.raises(CallCancelled):
            future.result(30)
        for number in (2, 3):
            with pytest.raises(CallCancelled):
                stream.submit_request(numbered(number))
        stream.close()

    async with serving() as gateway:
        gateway.respond = lambda served, call: None
        await asyncio.to_thread(run, gateway.address)


async def test_a_call_over_its_time_fails_and_the_stream_goes_on() -> None:
    def respond(served: ServedStream, call: StreamCall) -> None:
        # Told by its name, as the first one's time may be over before it is even sent.
        if call.infer.request.id == "answered":
            served.answer(call)

    def use(stream: BlockingStream) -> None:
        with pytest.raises(InferenceTimeout):
            stream.infer("echo", {"x": np.array([1])}, timeout_s=0.05)
        assert number_of(stream.infer("echo", {"x": np.array([2])}, request_id="answered")) == 2

    async with serving() as gateway:
        gateway.respond = respond
        await on_a_thread(gateway, use)


async def test_a_done_callback_may_submit_but_not_wait() -> None:
    outcomes: list[object] = []
    awaited, called = threading.Event(), threading.Event()

    def use(stream: BlockingStream) -> None:
        def done(_: Future[InferResult]) -> None:
            try:
                stream.infer("echo", {"x": np.array([2])})
            except RuntimeError as error:
                outcomes.append(str(error))
            outcomes.append(stream.submit("echo", {"x": np.array([3])}))
            called.set()

        first = stream.submit("echo", {"x": np.array([1])})
        first.add_done_callback(done)
        awaited.set()
        first.result(30)
        # Who waits for a future is woken before its callbacks are called.
        assert called.wait(30)
        stream.close()

    async with serving() as gateway, asyncio.timeout(60):
        gateway.respond = lambda served, call: None
        task = on_a_thread(gateway, use)
        # An answer that comes before the callback is there has it called in the thread that adds it.
        await eventually(lambda: awaited.is_set() and len(gateway.every_call) == 1)
        gateway.respond = ServedStream.answer
        gateway.streams[0].answer(gateway.every_call[0])
        await task
    refusal, later = outcomes
    assert "callback of the same client" in str(refusal)
    assert isinstance(later, Future) and number_of(later.result(0)) == 3


def handing_over_waits_for(
    stream: BlockingStream, condition: Callable[[], bool], *, fails: bool, patch: pytest.MonkeyPatch
) -> threading.Event:
    """Gives other threads time to come between a submit and the hand-over of its call, which may fail then.

    Returns:
        Set when a hand-over has begun.
    """
    real, begun = stream._loop.call, threading.Event()

    def call(function: Callable[..., object], *arguments: object) -> None:
        if function == stream._take_over:
            begun.set()
            give_up_at = time.monotonic() + 0.3
            while not condition() and time.monotonic() < give_up_at:
                time.sleep(0.005)
            if fails:
                raise CallCancelled("the client is closed")
        real(function, *arguments)

    patch.setattr(stream._loop, "call", call)
    return begun


async def test_when_a_call_cant_be_handed_over_those_beside_it_fail_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(stream: BlockingStream) -> None:
        handing_over_waits_for(stream, lambda: len(stream._handed_over) == 2, fails=True, patch=monkeypatch)
        with ThreadPoolExecutor(2) as pool:
            for submitted in [pool.submit(stream.submit_request, numbered(number)) for number in range(2)]:
                with pytest.raises(CallCancelled):
                    submitted.result(30).result(30)
        assert stream._open_calls == 0

    async with serving() as gateway:
        await on_a_thread(gateway, use)


async def test_a_call_cancelled_before_it_was_handed_over_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(stream: BlockingStream) -> None:
        cancelled = threading.Event()
        begun = handing_over_waits_for(stream, cancelled.is_set, fails=False, patch=monkeypatch)

        def submit_and_cancel() -> None:
            assert stream.submit_request(numbered(2)).cancel()
            cancelled.set()

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(stream.submit, "echo", {"x": np.array([1])}, request_id="1")
            assert begun.wait(30)
            pool.submit(submit_and_cancel).result(30)
            assert number_of(first.result(30).result(30)) == 1
        give_up_at = time.monotonic() + 30
        while stream._engine._open and time.monotonic() < give_up_at:
            time.sleep(0.005)
        assert stream._engine._open == 0

    async with serving() as gateway:
        gateway.respond = lambda served, call: served.answer(call) if call.infer.request.id == "1" else None
        await on_a_thread(gateway, use)
