"""Packed streams of the SDK through a whole mesh, with a number in each tensor that tells whose answer came."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator

import numpy as np
import pytest

from headrace_client.async_client import AsyncClient
from headrace_client.client import Client
from headrace_client.errors import HeadraceError, ModelError, TensorError
from headrace_client.inference import InferRequest, InferResult
from headrace_client.stream import InferStream
from support.eventually import eventually
from support.folders import open_folder
from support.mesh import Mesh, running_mesh
from support.onnx_models import identity

MODEL = "stream-nonce"


@pytest.fixture(scope="session")
def nonce_mesh(mesh: Mesh) -> Mesh:
    """The shared mesh with a model that gives back what it gets."""
    with Client(mesh.grpc, api_key=mesh.api_key) as client:
        push(client)
    return mesh


@pytest.fixture
async def client(nonce_mesh: Mesh) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(nonce_mesh.grpc, api_key=nonce_mesh.api_key) as client:
        yield client


def push(client: Client) -> None:
    client.models.push(identity("INT64", ("batch", 1)), name=MODEL)
    client.infer(MODEL, {"x": nonce(0)})


def nonce(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array([[number]], np.int64)


def number_of(result: InferResult) -> int:
    return int(result["z"][0, 0])


async def test_ten_thousand_calls_each_get_their_own_answer(client: AsyncClient) -> None:
    async def caller(stream: InferStream, first: int) -> None:
        for number in range(first, 10_000, 256):
            assert number_of(await stream.infer(MODEL, {"x": nonce(number)})) == number

    async with asyncio.timeout(100), client.stream() as stream:
        await asyncio.gather(*(caller(stream, first) for first in range(256)))


async def test_cancelled_calls_take_nobody_elses_answer(client: AsyncClient) -> None:
    chance = random.Random(3)
    outcomes: Counter[str] = Counter()

    async def caller(stream: InferStream, first: int) -> None:
        for number in range(first, 2_000, 64):
            future = await stream.submit(MODEL, {"x": nonce(number)})
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.01)
                future.cancel()
            try:
                assert number_of(await future) == number
                outcomes["answered"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1

    async with asyncio.timeout(100), client.stream() as stream:
        await asyncio.gather(*(caller(stream, first) for first in range(64)))
    assert outcomes.total() == 2_000
    assert outcomes["cancelled"] > 50 and outcomes["answered"] > 1_000


async def test_good_and_bad_calls_share_a_stream(client: AsyncClient) -> None:
    requests = [
        InferRequest(MODEL, {"x": nonce(1)}, request_id="mine", priority=9),
        InferRequest("no-such-model", {"x": nonce(2)}),
        InferRequest(MODEL, {"x": np.zeros((1, 2), np.int64)}),
        InferRequest(MODEL, {"y": nonce(3)}),
        InferRequest(MODEL, {"x": nonce(4)}, outputs=["z"]),
    ]
    good, missing, misshapen, misnamed, last = await client.infer_many(requests, return_errors=True)
    assert isinstance(good, InferResult) and number_of(good) == 1 and good.id == "mine"
    assert good.execution.runner.startswith("runner-") and good.execution.backend == "onnxruntime"
    assert isinstance(missing, ModelError) and missing.reason == "MODEL_NOT_FOUND"
    assert isinstance(misshapen, TensorError)
    assert isinstance(misnamed, HeadraceError) and not misnamed.retryable
    assert isinstance(last, InferResult) and number_of(last) == 4


async def test_large_and_small_tensors_share_a_stream(client: AsyncClient) -> None:
    rows = [np.arange(size, dtype=np.int64).reshape(-1, 1) for size in (1, 500_000, 1, 2_000_000, 3)]
    results = await client.infer_many([InferRequest(MODEL, {"x": row}) for row in rows])
    for row, result in zip(rows, results, strict=True):
        assert np.array_equal(result["z"], row)


def test_the_blocking_client_keeps_the_order_of_many_requests(nonce_mesh: Mesh) -> None:
    with Client(nonce_mesh.grpc, api_key=nonce_mesh.api_key) as client:
        results = client.infer_many(InferRequest(MODEL, {"x": nonce(number)}) for number in range(1_000))
    assert [number_of(result) for result in results] == list(range(1_000))


@pytest.mark.fault
async def test_calls_outlive_a_gateway_that_is_killed() -> None:
    stop = asyncio.Event()
    counts: list[int] = []

    async def caller(stream: InferStream, first: int) -> int:
        number = first
        while not stop.is_set():
            assert number_of(await stream.infer(MODEL, {"x": nonce(number)}, timeout_s=60)) == number
            number += 64
        return number // 64

    with open_folder() as folder, running_mesh(folder, "--runners", "1") as mesh:
        with Client(mesh.grpc, api_key=mesh.api_key) as blocking:
            await asyncio.to_thread(push, blocking)
        async with AsyncClient(mesh.grpc, api_key=mesh.api_key) as client, client.stream() as stream:
            load = asyncio.gather(*(caller(stream, first) for first in range(64)))
            for _ in range(2):
                await asyncio.sleep(0.5)
                before = mesh.current_processes()["gateway-0"].pid
                os.kill(before, signal.SIGKILL)
                await eventually(lambda pid=before: mesh.current_processes()["gateway-0"].pid != pid, within_s=30)
                await asyncio.wait((load,), timeout=2.0)
                assert not load.done()
            stop.set()
            counts += await load
    assert min(counts) > 10
