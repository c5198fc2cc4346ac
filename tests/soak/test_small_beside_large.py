"""Small calls keep their latency while huge tensors pass through the same gateway and runners."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import grpc
import grpc.aio
import numpy as np
import pytest

from headrace.registry.v1 import models_pb2, models_pb2_grpc
from inference.open_inference_pb2 import ModelInferRequest
from support import onnx_models
from support.load import Outcomes, paced
from support.mesh import Mesh
from support.soak import Measured, Tensor

PER_S = 100
ROUND_S = 5.0
ROUNDS = 5
WARM_UP_S = 4.0
LARGE_FLOATS = 15 << 20
LARGE_CALLER = Path(__file__).with_name("large_caller.py")


async def push(channel: grpc.aio.Channel, mesh: Mesh, name: str, content: bytes) -> None:
    """Registers a small model, as any client would."""
    header = models_pb2.UploadHeader(
        model=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), file_name="model.onnx"
    )
    parts = [models_pb2.UploadVersionRequest(header=header), models_pb2.UploadVersionRequest(chunk=content)]
    await models_pb2_grpc.ModelServiceStub(channel).UploadVersion(iter(parts), metadata=mesh.metadata, timeout=60)


def echo_request(floats: int) -> ModelInferRequest:
    """A request to the echo model with one row of that many numbers."""
    return ModelInferRequest(
        model_name="echo",
        inputs=[Tensor(name="x", datatype="FP32", shape=[1, floats])],
        raw_input_contents=[np.ones(floats, np.float32).tobytes()],
    )


@asynccontextmanager
async def large_calls(mesh: Mesh, period_s: float) -> AsyncIterator[list[int]]:
    """Huge calls from another process for as long as the context lasts; then the list holds how many were answered."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(LARGE_CALLER), mesh.grpc, mesh.api_key, str(LARGE_FLOATS), str(period_s)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answered: list[int] = []
    try:
        assert await process.stdout.readline() == b"started\n"
        yield answered
        process.stdin.close()
        answered.append(int(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize(("period_s", "growth_ms_max"), [(ROUND_S, 20.0), (1.0, None)])
async def test_large_tensors_do_not_delay_small_calls(
    mesh: Mesh, measured: Measured, period_s: float, growth_ms_max: float | None
) -> None:
    """The demand is on one tensor at a time; how it grows with sixty megabytes a second is told without one."""
    small = echo_request(16)
    alone_ms: list[float] = []
    beside_ms: list[float] = []
    tensors = 0
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        await push(channel, mesh, "echo", onnx_models.identity("FP32", ("batch", "size")))
        warm_up = Outcomes()
        async with large_calls(mesh, 0.5):
            await paced(channel, small, per_s=PER_S, for_s=WARM_UP_S, outcomes=warm_up, metadata=mesh.metadata)
        for _ in range(ROUNDS):
            alone, beside = Outcomes(), Outcomes()
            await paced(channel, small, per_s=PER_S, for_s=ROUND_S, outcomes=alone, metadata=mesh.metadata)
            async with large_calls(mesh, period_s) as answered:
                await paced(channel, small, per_s=PER_S, for_s=ROUND_S, outcomes=beside, metadata=mesh.metadata)
            assert not (alone.failures or beside.failures)
            tensors += answered[0]
            alone_ms.append(alone.quantile_ms(0.99))
            beside_ms.append(beside.quantile_ms(0.99))
    growth_ms = median(beside_ms) - median(alone_ms)
    demand = f"≤ {growth_ms_max:.0f} ms" if growth_ms_max is not None else "no demand, for comparison"
    measured(
        f"a {LARGE_FLOATS * 4 >> 20} MiB tensor every {period_s:.0f} s beside {PER_S} small calls/s",
        f"growth of the small calls' p99, median of {ROUNDS} interleaved rounds of {ROUND_S:.0f} s: {demand}",
        f"{median(alone_ms):.1f} ms alone, {median(beside_ms):.1f} ms beside {tensors} tensors: {growth_ms:+.1f} ms",
    )
    assert growth_ms_max is None or growth_ms <= growth_ms_max
