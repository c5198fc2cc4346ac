"""Many requests at once through both clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from headrace_client.async_client import AsyncClient
from headrace_client.client import Client
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import StreamCall
from headrace_client.errors import HeadraceError, ModelError, TensorError, ValidationError
from headrace_client.inference import InferRequest, InferResult
from headrace_client.many import iterate_many
from headrace_common import errors
from support.eventually import eventually
from support.stream_clients import number_of, numbered
from support.stream_gateway import ServedStream, StreamGateway, serving

MISSING = errors.ModelError("model 'x' was not found")


@pytest.fixture
async def gateway() -> AsyncIterator[StreamGateway]:
    async with serving() as gateway:
        gateway.respond = lambda served, call: (
            served.refuse(call, MISSING) if call.infer.request.model_name == "x" else served.answer(call)
        )
        yield gateway


@pytest.fixture
async def client(gateway: StreamGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.address, timeout_s=30) as client:
        yield client


def numbers_of(results: list[InferResult]) -> list[int]:
    return [number_of(result) for result in results]


async def test_results_are_in_the_order_of_the_requests(client: AsyncClient, gateway: StreamGateway) -> None:
    results = await client.infer_many(map(numbered, range(3_000)), concurrency=100)
    assert numbers_of(results) == list(range(3_000))
    assert len(gateway.streams) == 1


async def test_answers_in_another_order_change_nothing(client: AsyncClient, gateway: StreamGateway) -> None:
    def later_first(served: ServedStream, call: StreamCall) -> None:
        asyncio.get_running_loop().call_later(0.02 / call.id, served.answer, call)

    gateway.respond = later_first
    assert numbers_of(await client.infer_many(map(numbered, range(40)), concurrency=40)) == list(range(40))


async def test_no_more_requests_are_taken_than_may_be_under_way(client: AsyncClient, gateway: StreamGateway) -> None:
    taken = given = 0
    most = 0

    def requests() -> Iterator[InferRequest]:
        nonlocal taken, most
        for number in range(200):
            taken += 1
            most = max(most, taken - given)
            yield numbered(number)

    async with client.stream() as stream:
        async for _ in iterate_many(stream, requests(), concurrency=10):
            given += 1
    assert given == 200
    assert 2 <= most <= 11


async def test_endless_requests_can_be_left_and_what_is_under_way_is_cancelled(
    client: AsyncClient, gateway: StreamGateway
) -> None:
    def requests() -> Iterator[InferRequest]:
        number = 0
        while True:
            yield numbered(number)
            number += 1

    gateway.respond = lambda served, call: served.answer(call) if call.id <= 3 else None
    async with client.stream() as stream:
        results = iterate_many(stream, requests(), concurrency=10)
        for number in range(3):
            result = await anext(results)
            assert isinstance(result, InferResult) and number_of(result) == number
        await eventually(lambda: len(gateway.streams[0].calls) >= 7)
        await results.aclose()
        await eventually(lambda: not gateway.streams[0].calls)


async def test_the_first_error_ends_all_unless_errors_are_results(client: AsyncClient) -> None:
    requests = [numbered(0), numbered(1, model="x"), InferRequest("echo", {"x": np.array([None])}), numbered(3)]
    with pytest.raises(ModelError):
        await client.infer_many(requests)
    results = await client.infer_many(requests, return_errors=True)
    assert [type(result) for result in results] == [InferResult, ModelError, TensorError, InferResult]


async def test_no_requests_make_no_results_and_a_concurrency_below_one_is_refused(client: AsyncClient) -> None:
    assert await client.infer_many([]) == []
    with pytest.raises(ValidationError):
        await client.infer_many([numbered(1)], concurrency=0)


async def test_time_is_that_of_the_request_or_what_was_said_for_all(
    client: AsyncClient, gateway: StreamGateway
) -> None:
    requests = [numbered(0, timeout_s=30), numbered(1)]
    await client.infer_many(requests, timeout_s=70)
    first, second = (call.timeout.ToMilliseconds() for call in gateway.every_call)
    assert 15_000 < first <= 30_000 and 55_000 < second <= 70_000


async def test_the_blocking_client_reads_the_requests_in_the_calling_thread(gateway: StreamGateway) -> None:
    def run() -> tuple[list[InferResult | HeadraceError], list[InferResult]]:
        with Client(gateway.address, timeout_s=30) as client:

            def requests() -> Iterator[InferRequest]:
                for number in range(300):
                    if number % 100 == 0:
                        # Would never return on the thread that carries the calls.
                        with client.stream() as other:
                            assert number_of(other.infer("echo", {"x": np.array([number])})) == number
                    yield numbered(number, model="x" if number == 7 else "echo")

            with pytest.raises(ModelError):
                client.infer_many(requests(), concurrency=20)
            return (
                client.infer_many(requests(), concurrency=20, return_errors=True),
                client.infer_many(map(numbered, range(50))),
            )

    mixed, good = await asyncio.to_thread(run)
    assert isinstance(mixed[7], ModelError) and len(mixed) == 300
    assert [number_of(r) for r in mixed if isinstance(r, InferResult)] == [n for n in range(300) if n != 7]
    assert numbers_of(good) == list(range(50))
