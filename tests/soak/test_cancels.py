"""Calls are cancelled at random moments; everything that they held comes back."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import grpc
import grpc.aio
import psutil

from inference.open_inference_pb2 import ModelInferRequest
from support.load import Outcomes, closed_loop, infer_stub
from support.mesh import Mesh
from support.soak import Measured, settled

CANCELS = 1_000
WARM_UP_CALLS = 2_000
MEMORY_RATIO_MAX = 1.10
BARE_SERVER = Path(__file__).with_name("bare_server.py")


async def cancel_at_random(
    channel: grpc.aio.Channel, request: ModelInferRequest, metadata: tuple[tuple[str, str], ...], *, longest_s: float
) -> int:
    """Starts calls, 20 at a time, each to be cancelled after a random part of `longest_s`, until CANCELS were.

    Returns:
        How many calls were answered before their cancel came.
    """
    stub, body = infer_stub(channel), request.SerializeToString()
    moments = random.Random(42)
    cancelled = answered = 0

    async def caller() -> None:
        nonlocal cancelled, answered
        while cancelled < CANCELS:
            call = stub(body, metadata=metadata, timeout=20)
            await asyncio.sleep(moments.random() * longest_s)
            call.cancel()
            try:
                await call
                answered += 1
            except asyncio.CancelledError:
                cancelled += 1

    await asyncio.gather(*(caller() for _ in range(20)))
    return answered


async def warm(channel: grpc.aio.Channel, request: ModelInferRequest, metadata: tuple[tuple[str, str], ...]) -> float:
    """Brings a server's memory to its steady state; returns the median latency in seconds."""
    outcomes = Outcomes()
    await closed_loop(
        channel,
        request,
        callers=20,
        until=lambda: outcomes.answered >= WARM_UP_CALLS,
        outcomes=outcomes,
        metadata=metadata,
    )
    assert not outcomes.failures
    return outcomes.quantile_ms(0.5) / 1000


async def test_cancelled_calls_give_everything_back(
    mesh: Mesh, file_request: ModelInferRequest, measured: Measured
) -> None:
    gateway = psutil.Process(mesh.current_processes()["gateway-0"].pid)
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        median_s = await warm(channel, file_request, mesh.metadata)
        before = await settled(mesh, {})
        rss_before = gateway.memory_info().rss
        answered = await cancel_at_random(channel, file_request, mesh.metadata, longest_s=2 * median_s)
        after = await settled(mesh, before)
        rss_after = gateway.memory_info().rss
    bare_before, bare_after = await bare_server_memory(file_request, median_s)
    ratio = (rss_after / rss_before) / (bare_after / bare_before)
    measured(
        f"{CANCELS} calls cancelled at random moments",
        f"tasks, calls, credit, slots exactly back; memory ≤ {MEMORY_RATIO_MAX:.2f}× a bare grpc.aio server's growth",
        f"{CANCELS} cancelled in flight, {answered} answered before; all back; "
        f"gateway {rss_before >> 20} → {rss_after >> 20} MiB, "
        f"bare server {bare_before >> 20} → {bare_after >> 20} MiB, ratio {ratio:.3f}",
    )
    assert after == before
    assert ratio <= MEMORY_RATIO_MAX


async def bare_server_memory(request: ModelInferRequest, median_s: float) -> tuple[int, int]:
    """Memory of a server that only waits as long as a call takes, before and after the same cancels, in bytes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(BARE_SERVER), str(median_s)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        address = (await process.stdout.readline()).decode().strip()
        async with grpc.aio.insecure_channel(address) as channel:
            await warm(channel, request, ())
            before = psutil.Process(process.pid).memory_info().rss
            await cancel_at_random(channel, request, (), longest_s=2 * median_s)
            after = psutil.Process(process.pid).memory_info().rss
    finally:
        process.kill()
        await process.wait()
    return before, after
