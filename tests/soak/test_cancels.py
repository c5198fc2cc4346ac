"""Calls are cancelled at random moments; nobody gets another's answer, and everything that they held comes back."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest

from headrace_client.async_client import AsyncClient
from inference.open_inference_pb2 import ModelInferRequest
from support.load import infer_stub
from support.mesh import Mesh
from support.onnx_models import identity
from support.soak import Measured, Tensor, settled

CALLS = 100_000
CANCELLED_SHARE = 0.3
CALLERS = 64
WARM_UP_CALLS = 5_000
MEMORY_RATIO_MAX = 1.10
MODEL = "nonce"
BARE_SERVER = Path(__file__).with_name("bare_server.py")

# By which the spread of the moments grows with each cancel that came in time, and shrinks with each that didn't.
_STEP = 1.02

Metadata = tuple[tuple[str, str], ...]


def request_with(nonce: int) -> bytes:
    """A request whose tensor is the nonce; its bytes come last, in the request as in the answer."""
    return _WITHOUT_NONCE + nonce.to_bytes(8, "little")


_WITHOUT_NONCE = ModelInferRequest(
    model_name=MODEL,
    inputs=[Tensor(name="x", datatype="INT64", shape=[1, 1])],
    raw_input_contents=[np.array([0], np.int64).tobytes()],
).SerializeToString()[:-8]


async def load(channel: grpc.aio.Channel, metadata: Metadata, *, calls: int, cancelled_share: float) -> Counter[str]:
    """So many calls, of which a share is cancelled at random moments.

    The moments are spread so that one cancel in two comes too late, whatever the latency is just then.
    """
    stub = infer_stub(channel)
    chance = Random(42)
    ends: Counter[str] = Counter()
    patience_s, begun = 0.02, 0

    async def caller() -> None:
        nonlocal begun, patience_s
        while begun < calls:
            begun += 1
            nonce = chance.getrandbits(63)
            call = stub(request_with(nonce), metadata=metadata, timeout=60)
            cancels = ends["cancelled"] < cancelled_share * begun
            if cancels:
                await asyncio.sleep(chance.random() * patience_s)
                call.cancel()
            try:
                answer = await call
            except asyncio.CancelledError:
                ends["cancelled"] += 1
                patience_s *= _STEP
            except grpc.aio.AioRpcError as error:
                ends[f"{error.code().name}: {error.details()}"] += 1
            else:
                right = answer.endswith(nonce.to_bytes(8, "little"))
                ends["answered" if right else "foreign"] += 1
                if cancels:
                    patience_s /= _STEP

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return ends


@asynccontextmanager
async def bare_server(delay_s: float) -> AsyncIterator[tuple[str, int]]:
    """Address and process of a server that does nothing but wait as long as a call takes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(BARE_SERVER), str(delay_s)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip(), process.pid
    finally:
        process.kill()
        await process.wait()


async def memory(address: str, pid: int, metadata: Metadata) -> tuple[int, int, Counter[str]]:
    """Resident bytes of a server before and after the load, and how its calls ended."""
    async with grpc.aio.insecure_channel(address) as channel:
        await load(channel, metadata, calls=WARM_UP_CALLS, cancelled_share=CANCELLED_SHARE)
        before = psutil.Process(pid).memory_info().rss
        ends = await load(channel, metadata, calls=CALLS, cancelled_share=CANCELLED_SHARE)
        return before, psutil.Process(pid).memory_info().rss, ends


@pytest.mark.timeout(600)
async def test_cancelled_calls_give_everything_back(mesh: Mesh, measured: Measured) -> None:
    gateway = mesh.current_processes()["gateway-0"].pid
    async with AsyncClient(mesh.grpc, api_key=mesh.api_key) as client:
        await client.models.push(identity("INT64", ("batch", 1)), name=MODEL)
        await client.models.load(MODEL)
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        await load(channel, mesh.metadata, calls=WARM_UP_CALLS, cancelled_share=0.0)
    held_before = await settled(mesh, {})
    before, after, ends = await memory(mesh.grpc, gateway, mesh.metadata)
    held_after = await settled(mesh, held_before)
    async with bare_server(0.01) as (address, pid):
        bare_before, bare_after, _ = await memory(address, pid, ())
    ratio = (after / before) / (bare_after / bare_before)
    measured(
        f"{CALLS:,} calls, {CANCELLED_SHARE:.0%} of them cancelled at random moments, {CALLERS} callers",
        f"no foreign answer; tasks, calls, credit, slots exactly back; memory ≤ {MEMORY_RATIO_MAX:.2f}× a bare "
        "grpc.aio server's growth",
        f"{', '.join(f'{number:,} {what}' for what, number in sorted(ends.items()))}; {ends['foreign']} foreign; "
        f"{'all back' if held_after == held_before else 'not all back'}; gateway {before >> 20} → {after >> 20} MiB, "
        f"bare server {bare_before >> 20} → {bare_after >> 20} MiB, ratio {ratio:.3f}",
    )
    assert set(ends) == {"answered", "cancelled"}, ends
    assert ends["cancelled"] >= 0.95 * CANCELLED_SHARE * CALLS
    assert held_after == held_before
    assert ratio <= MEMORY_RATIO_MAX
