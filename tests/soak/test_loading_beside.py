"""A hot model keeps its latency while a large one loads on the same runner."""

from __future__ import annotations

import asyncio
import time
from statistics import median

import grpc
import grpc.aio
import pytest

from headrace_client.async_client import AsyncClient
from inference.open_inference_pb2 import ModelInferRequest
from support import onnx_models
from support.load import Outcomes, paced
from support.mesh import Mesh
from support.soak import Measured

PER_S = 50
ROUNDS = 5
ALONE_S = 6.0
LARGE_BYTES = 300 << 20
P99_RATIO_MAX = 1.5


async def latencies_until(
    channel: grpc.aio.Channel, mesh: Mesh, request: ModelInferRequest, ended: asyncio.Task[None]
) -> Outcomes:
    """Calls of the hot model at a fixed rate until the task has ended."""
    outcomes = Outcomes()
    while not ended.done():
        await paced(channel, request, per_s=PER_S, for_s=0.25, outcomes=outcomes, metadata=mesh.metadata)
    await ended
    return outcomes


@pytest.mark.parametrize("mesh", [("--runners", "1")], indirect=True)
async def test_a_hot_model_keeps_its_latency_while_a_large_one_loads(
    mesh: Mesh, file_request: ModelInferRequest, measured: Measured
) -> None:
    alone_ms: list[float] = []
    loading_ms: list[float] = []
    load_s: list[float] = []
    async with (
        AsyncClient(mesh.grpc, api_key=mesh.api_key) as client,
        grpc.aio.insecure_channel(mesh.grpc) as channel,
    ):
        for number in range(ROUNDS):
            await client.models.push(onnx_models.shelf(LARGE_BYTES, seed=number), name=f"large-{number}")
        await latencies_until(channel, mesh, file_request, asyncio.create_task(asyncio.sleep(3.0)))
        for number in range(ROUNDS):
            alone = await latencies_until(channel, mesh, file_request, asyncio.create_task(asyncio.sleep(ALONE_S)))
            started = time.monotonic()
            loading = asyncio.create_task(client.models.load(f"large-{number}"))
            beside = await latencies_until(channel, mesh, file_request, loading)
            load_s.append(time.monotonic() - started)
            assert not (alone.failures or beside.failures)
            alone_ms.append(alone.quantile_ms(0.99))
            loading_ms.append(beside.quantile_ms(0.99))
            await client.models.unload(f"large-{number}")
    ratio = median(beside / alone for beside, alone in zip(loading_ms, alone_ms, strict=True))
    measured(
        f"{PER_S} calls/s of a hot model while a {LARGE_BYTES >> 20} MiB model loads on the same runner",
        f"p99 ≤ {P99_RATIO_MAX:.1f}× its p99 alone, median of {ROUNDS} rounds",
        f"{median(alone_ms):.1f} ms alone, {median(loading_ms):.1f} ms during loads of {median(load_s):.1f} s: "
        f"{ratio:.2f}×",
    )
    assert ratio <= P99_RATIO_MAX
