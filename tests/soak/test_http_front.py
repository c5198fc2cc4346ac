"""The HTTP front under slow clients, and with large bodies beside calls of others."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import grpc.aio
import httpx
import numpy as np
import orjson
import pytest

from headrace_client import Client
from inference.open_inference_pb2 import ModelInferRequest
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support.folders import open_folder
from support.mesh import Mesh, running_mesh
from support.onnx_models import identity
from support.soak import Measured

SLOW = Path(__file__).with_name("slow_http_clients.py")
SLOW_CLIENTS = 1_000
RECEIPT_S = 5.0
P99_RATIO_MAX = 2.0
P99_GROWTH_S_MAX = 0.02
LARGE_VALUES = 450_000
"""Of about 20 characters each: 9 MiB."""


@pytest.fixture(scope="module")
def front() -> Iterator[Mesh]:
    """A mesh with an HTTP front whose receipt times are short."""
    times = {"HEADRACE_HTTP_HEAD_TIMEOUT_S": str(RECEIPT_S), "HEADRACE_HTTP_BODY_TIMEOUT_S": str(RECEIPT_S)}
    with open_folder() as folder, running_mesh(folder, "--runners", "2", environment=times, http=True) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def model(front: Mesh) -> str:
    """A model that answers with what it gets."""
    with Client(front.grpc) as client:
        client.models.push(identity("FP32", ("batch", -1)), name="echo", file_name="model.onnx")
        client.models.load("echo")
    return "echo"


def address(front: Mesh) -> tuple[str, int]:
    parts = urlsplit(str(front.http))
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port


def p99(latencies: list[float]) -> float:
    return float(np.percentile(latencies, 99))


async def infer_for(front: Mesh, model: str, seconds: float) -> list[float]:
    """Latencies of small inferences over HTTP, one after another."""
    document = {"modelId": model, "inputs": {"x": {"shape": [1, 4], "dtype": "FP32", "data": [1, 2, 3, 4]}}}
    latencies: list[float] = []
    async with httpx.AsyncClient(base_url=str(front.http), headers={"x-api-key": front.api_key}) as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.perf_counter()
            answer = await client.post("/v1/infer", json=document)
            latencies.append(time.perf_counter() - begun)
            assert answer.status_code == 200, answer.text
            await asyncio.sleep(0.005)
    return latencies


async def test_slow_clients_are_cut_off_and_others_hardly_notice(front: Mesh, model: str, measured: Measured) -> None:
    host, port = address(front)
    slow = await asyncio.create_subprocess_exec(
        *(sys.executable, SLOW, host, str(port), str(SLOW_CLIENTS)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert slow.stdin is not None and slow.stdout is not None
    try:
        assert await slow.stdout.readline() == b"started\n"
        await infer_for(front, model, 1.0)
        before = p99(await infer_for(front, model, RECEIPT_S + 3))
        slow.stdin.write(b"\n")
        during = p99(await infer_for(front, model, RECEIPT_S + 3))
        told = orjson.loads(await asyncio.wait_for(slow.stdout.readline(), 60))
    finally:
        with suppress(ProcessLookupError):
            slow.kill()
        await slow.wait()
    measured(
        f"{SLOW_CLIENTS} HTTP clients that send a byte a second",
        f"told 408 after {RECEIPT_S:g} s; p99 of others ≤ {P99_RATIO_MAX:g}x",
        f"{told['told']} told, after {told['least_s']:.1f} to {told['most_s']:.1f} s; "
        f"p99 {before * 1e3:.1f} → {during * 1e3:.1f} ms",
    )
    assert told["told"] == SLOW_CLIENTS and told["most_s"] < RECEIPT_S + 10
    assert during <= P99_RATIO_MAX * before


async def test_large_json_bodies_do_not_hold_up_calls_over_grpc(front: Mesh, model: str, measured: Measured) -> None:
    request = ModelInferRequest(model_name=model, raw_input_contents=[np.zeros((1, 4), "<f4").tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])

    async def grpc_for(seconds: float) -> list[float]:
        latencies: list[float] = []
        async with grpc.aio.insecure_channel(front.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                begun = time.perf_counter()
                await stub.ModelInfer(request, metadata=front.metadata)  # pyright: ignore[reportGeneralTypeIssues]
                latencies.append(time.perf_counter() - begun)
                await asyncio.sleep(0.005)
        return latencies

    values = np.random.default_rng(1).random(LARGE_VALUES).tolist()
    large = orjson.dumps(
        {"modelId": model, "inputs": {"x": {"shape": [1, LARGE_VALUES], "dtype": "FP64", "data": values}}}
    ).replace(b'"FP64"', b'"FP32"')
    assert len(large) > 8 << 20
    stop = asyncio.Event()
    sent = 0

    async def post() -> None:
        nonlocal sent
        headers = {"x-api-key": front.api_key, "content-type": "application/json"}
        async with httpx.AsyncClient(base_url=str(front.http), headers=headers, timeout=60) as client:
            while not stop.is_set():
                answer = await client.post("/v1/infer", content=large)
                assert answer.status_code == 200, answer.text[:500]
                sent += 1

    await grpc_for(1.0)
    before = p99(await grpc_for(8.0))
    posting = asyncio.create_task(post())
    during = p99(await grpc_for(8.0))
    stop.set()
    await posting
    measured(
        "9 MiB JSON bodies beside small calls over gRPC",
        f"the calls' p99 grows by ≤ {P99_GROWTH_S_MAX * 1e3:g} ms",
        f"{before * 1e3:.1f} → {during * 1e3:.1f} ms beside {sent} bodies",
    )
    assert sent > 0 and during - before <= P99_GROWTH_S_MAX
