"""What becomes of calls when their packed stream breaks, drains or is refused."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise

import grpc
import numpy as np
import pytest

from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import StreamCall
from headrace_client.errors import (
    AuthError,
    CallCancelled,
    HeadraceError,
    InferenceTimeout,
    InternalError,
    RouteUnavailable,
    UnreachableError,
)
from headrace_client.retries import NO_RETRIES, RetryPolicy
from headrace_client.stream import InferStream
from headrace_common import catalogue, errors
from support.eventually import eventually
from support.stream_clients import QUICK, number_of, numbered, stream_to, transport_to
from support.stream_gateway import ServedStream, StreamGateway, limits_of, serving

LOST = errors.RouteUnavailable("the server is stopping", entry=catalogue.SERVER_DRAINING)
REVOKED = errors.AuthError("the key was revoked", entry=catalogue.CREDENTIAL_UNKNOWN)


@pytest.fixture
async def gateway() -> AsyncIterator[StreamGateway]:
    async with serving() as gateway:
        yield gateway


@pytest.fixture
async def stream(gateway: StreamGateway) -> AsyncIterator[InferStream]:
    async with stream_to(gateway.address) as stream:
        yield stream


def first_stream_holds(gateway: StreamGateway) -> None:
    """Calls on the first stream get no answer, those on later ones do."""

    def respond(served: ServedStream, call: StreamCall) -> None:
        if served is not gateway.streams[0]:
            served.answer(call)

    gateway.respond = respond


@pytest.mark.parametrize("ending", [LOST, None], ids=["with UNAVAILABLE", "with OK"])
async def test_calls_without_an_answer_are_tried_again_when_the_stream_ends(
    gateway: StreamGateway, stream: InferStream, ending: errors.HeadraceError | None
) -> None:
    first_stream_holds(gateway)
    tasks = [
        asyncio.ensure_future(stream.infer("echo", {"x": np.array([n])}, request_id=f"call-{n}")) for n in range(200)
    ]
    await eventually(lambda: len(gateway.every_call) == 200)
    served = gateway.streams[0]
    for call in list(served.calls.values())[:50]:
        served.answer(call)
    tasks[60].cancel()
    await eventually(lambda: bool(served.sent_cancels))
    served.end(ending)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r if isinstance(r, BaseException) else number_of(r) for n, r in enumerate(results) if n != 60] == [
        n for n in range(200) if n != 60
    ]
    assert isinstance(results[60], asyncio.CancelledError)
    again = [call.request_id for call in gateway.streams[1].every_call]
    assert again == [f"call-{n}" for n in range(50, 200) if n != 60]


@pytest.mark.parametrize("refused", [False, True], ids=["lost", "refused"])
async def test_a_call_of_a_sequence_is_never_sent_twice(
    gateway: StreamGateway, stream: InferStream, refused: bool
) -> None:
    """The state may have moved on although no answer came."""
    gateway.respond = lambda served, call: served.refuse(call, LOST) if refused else served.end(LOST)
    with pytest.raises(RouteUnavailable):
        await stream.infer("echo", {"x": np.array([1])}, parameters={"sequence_id": 7})
    assert len(gateway.every_call) == 1


async def test_a_call_is_tried_as_often_as_the_policy_says(gateway: StreamGateway, stream: InferStream) -> None:
    gateway.respond = lambda served, call: served.end(LOST)
    with pytest.raises(RouteUnavailable):
        await stream.infer("echo", {"x": np.array([1])})
    assert len(gateway.every_call) == QUICK.attempts_max


async def test_without_retries_a_broken_stream_is_an_error_and_the_next_call_opens_another(
    gateway: StreamGateway,
) -> None:
    first_stream_holds(gateway)
    async with stream_to(gateway.address, retry=NO_RETRIES) as stream:
        future = await stream.submit_request(numbered(1))
        await eventually(lambda: len(gateway.every_call) == 1)
        gateway.streams[0].end(LOST)
        with pytest.raises(RouteUnavailable) as lost:
            await future
        assert lost.value.reason == "SERVER_DRAINING"
        assert number_of(await stream.infer("echo", {"x": np.array([2])})) == 2


async def test_a_break_takes_one_token_of_the_budget_however_many_calls_it_hits(gateway: StreamGateway) -> None:
    first_stream_holds(gateway)
    policy = RetryPolicy(tokens_max=3.0, initial_s=0.01)
    async with stream_to(gateway.address, retry=policy) as stream:
        futures = [await stream.submit_request(numbered(number)) for number in range(100)]
        await eventually(lambda: len(gateway.every_call) == 100)
        gateway.streams[0].end(LOST)
        assert [number_of(await future) for future in futures] == list(range(100))


async def test_without_budget_a_break_reaches_the_callers(gateway: StreamGateway) -> None:
    gateway.respond = lambda served, call: served.end(LOST)
    policy = RetryPolicy(tokens_max=2.0, initial_s=0.01)
    async with stream_to(gateway.address, retry=policy) as stream:
        with pytest.raises(RouteUnavailable):
            await stream.infer("echo", {"x": np.array([1])})
    assert len(gateway.every_call) == 1


async def test_a_draining_stream_finishes_its_calls_while_new_ones_go_to_another(
    gateway: StreamGateway, stream: InferStream
) -> None:
    first_stream_holds(gateway)
    old = [await stream.submit_request(numbered(number)) for number in range(3)]
    await eventually(lambda: len(gateway.every_call) == 3)
    served = gateway.streams[0]
    served.drain()
    await eventually(lambda: stream_is_left(stream))
    assert number_of(await stream.infer("echo", {"x": np.array([7])})) == 7
    assert [len(opened.every_call) for opened in gateway.streams] == [3, 1]
    for call in list(served.calls.values()):
        served.answer(call)
    assert [number_of(await future) for future in old] == [0, 1, 2]
    await eventually(lambda: served.half_closed)
    assert len(gateway.streams) == 2


def stream_is_left(stream: InferStream) -> bool:
    """Whether the stream's connection knows that it drains."""
    return all(connection.unusable.is_set() for connection in stream.engine._connections)


async def test_a_refused_stream_fails_all_that_wait_and_recovers_with_the_credential(
    gateway: StreamGateway, stream: InferStream
) -> None:
    gateway.refusal = REVOKED
    results = await asyncio.gather(
        *(stream.infer("echo", {"x": np.array([n])}) for n in range(20)), return_exceptions=True
    )
    assert {type(result) for result in results} == {AuthError}
    assert len({id(result) for result in results}) == 20
    assert gateway.refused == 1
    gateway.refusal = None
    assert number_of(await stream.infer("echo", {"x": np.array([1])})) == 1


async def test_a_key_revoked_in_mid_stream_fails_calls_at_once(gateway: StreamGateway, stream: InferStream) -> None:
    first_stream_holds(gateway)
    futures = [await stream.submit_request(numbered(number)) for number in range(5)]
    await eventually(lambda: len(gateway.every_call) == 5)
    gateway.refusal = REVOKED
    gateway.streams[0].end(REVOKED)
    for future in futures:
        with pytest.raises(AuthError):
            await future
    with pytest.raises(AuthError):
        await stream.infer("echo", {"x": np.array([1])})


async def test_without_retries_an_endpoint_where_nobody_answers_is_named_at_once() -> None:
    async with serving() as gateway:
        address = gateway.address
    async with asyncio.timeout(30), stream_to(address, retry=NO_RETRIES, timeout_s=60) as stream:
        with pytest.raises(UnreachableError):
            await stream.infer("echo", {"x": np.array([1])})


async def test_a_stream_is_opened_again_after_the_pause_that_its_end_advises(
    gateway: StreamGateway, stream: InferStream
) -> None:
    busy = errors.RouteUnavailable("not yet", entry=catalogue.SERVER_DRAINING, retry_after_s=0.5)
    gateway.respond = lambda served, call: served.end(busy) if served is gateway.streams[0] else served.answer(call)
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    assert number_of(await stream.infer("echo", {"x": np.array([1])})) == 1
    assert loop.time() - started_at >= 0.5


async def test_an_endpoint_where_nobody_answers_is_named_when_the_calls_time_is_over() -> None:
    async with serving() as gateway:
        address = gateway.address
    async with stream_to(address) as stream:
        with pytest.raises(UnreachableError) as unreachable:
            await stream.infer("echo", {"x": np.array([1])}, timeout_s=2.0)
    assert unreachable.value.context["endpoint"] == address


async def test_calls_wait_for_a_gateway_that_is_away() -> None:
    async with serving() as gateway:
        address = gateway.address
        first_stream_holds(gateway)
        async with transport_to(address) as transport, asyncio.timeout(60):
            stream = InferStream(transport=transport)
            tasks = [asyncio.ensure_future(stream.infer("echo", {"x": np.array([n])})) for n in range(50)]
            await eventually(lambda: len(gateway.every_call) == 50)
            await gateway.kill()
            tasks += [asyncio.ensure_future(stream.infer("echo", {"x": np.array([50])}))]
            async with serving(address=address):
                assert [number_of(result) for result in await asyncio.gather(*tasks)] == list(range(51))
                await stream.close()


async def test_streams_that_break_before_any_answer_are_opened_less_and_less_often(gateway: StreamGateway) -> None:
    loop = asyncio.get_running_loop()
    broken_at: list[float] = []

    def respond(served: ServedStream, call: StreamCall) -> None:
        broken_at.append(loop.time())
        served.end(LOST)

    gateway.respond = respond
    tireless = RetryPolicy(attempts_max=10_000, tokens_max=1e6, initial_s=0.05, max_s=1.0)
    async with stream_to(gateway.address, retry=tireless) as stream:
        future = await stream.submit_request(numbered(1))
        await eventually(lambda: len(broken_at) == 5)
        future.cancel()
    pauses_s = [after - before for before, after in pairwise(broken_at)]
    # A busy machine makes pauses longer, never shorter; a fifth of each is random.
    assert all(pause_s > 0.79 * tireless.pause_s(number) for number, pause_s in enumerate(pauses_s, start=1)), pauses_s


async def test_a_call_whose_stream_breaks_again_and_again_ends_with_its_time(gateway: StreamGateway) -> None:
    gateway.respond = lambda served, call: served.end(LOST)
    tireless = RetryPolicy(attempts_max=10_000, tokens_max=1e6, initial_s=0.05, max_s=1.0)
    async with stream_to(gateway.address, retry=tireless) as stream:
        with pytest.raises(InferenceTimeout):
            await stream.infer("echo", {"x": np.array([1])}, timeout_s=0.3)


async def test_a_stream_whose_first_message_can_not_be_read_fails_what_waits(
    gateway: StreamGateway, stream: InferStream
) -> None:
    gateway.greeting = b"\xff\xff"
    with pytest.raises(InternalError):
        await stream.infer("echo", {"x": np.array([1])})
    gateway.greeting = None
    assert number_of(await stream.infer("echo", {"x": np.array([2])})) == 2


async def test_a_server_without_the_method_says_so_at_once() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with stream_to(f"127.0.0.1:{port}") as stream:
            with pytest.raises(HeadraceError) as missing:
                await stream.infer("echo", {"x": np.array([1])})
        assert missing.value.reason == "METHOD_UNKNOWN"
    finally:
        await server.stop(0)


async def test_closing_the_connection_ends_calls_and_leaves_nothing_running(gateway: StreamGateway) -> None:
    before = asyncio.all_tasks()
    gateway.respond = lambda served, call: None
    async with transport_to(gateway.address) as transport:
        stream = InferStream(transport=transport)
        future = await stream.submit_request(numbered(1))
        await eventually(lambda: len(gateway.every_call) == 1)
        await transport.close()
        with pytest.raises(CallCancelled):
            await future
        await stream.abort()
    served = {task for task in asyncio.all_tasks() - before if task.get_name().startswith("headrace")}
    assert not served


async def test_under_random_breaks_drains_and_cancels_every_call_has_one_outcome_of_its_own() -> None:
    chance = random.Random(7)

    def respond(served: ServedStream, call: StreamCall) -> None:
        draw = chance.random()
        if draw < 0.004:
            served.end(LOST)
        elif draw < 0.008:
            served.end(None)
        elif draw < 0.016:
            served.drain()
        if draw < 0.97:
            served.answer(call)
        else:
            asyncio.get_running_loop().call_later(chance.random() * 0.02, served.answer, call)

    outcomes: Counter[str] = Counter()

    async def caller(stream: InferStream, numbers: range) -> None:
        for number in numbers:
            future = await stream.submit_request(numbered(number))
            if chance.random() < 0.1:
                await asyncio.sleep(chance.random() * 0.005)
                future.cancel()
            try:
                assert number_of(await future) == number
                outcomes["answered"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1

    generous = RetryPolicy(attempts_max=20, initial_s=0.001, max_s=0.01, tokens_max=1e6)
    async with serving(limits_of(calls_max=40, calls_per_message_max=16)) as gateway:
        gateway.respond = respond
        async with stream_to(gateway.address, retry=generous) as stream, asyncio.timeout(100):
            await asyncio.gather(*(caller(stream, range(first, 4_000, 50)) for first in range(50)))
            assert stream.engine._open == 0 and len(stream.engine._deadlines) == 0
    assert outcomes.total() == 4_000
    assert outcomes["cancelled"] > 0
    assert len(gateway.streams) > 5
