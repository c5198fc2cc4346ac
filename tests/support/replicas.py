"""What a gateway says of the runners behind it, and how clients should call a mesh whose parts come and go."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import grpc.aio

from headrace.gateway.v1 import mesh_pb2, mesh_pb2_grpc
from support.load import Outcomes
from support.mesh import Mesh
from support.soak import scrape

# What the gRPC documentation recommends to clients of any service that may be rolled.
RETRYING = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


async def runners(channel: grpc.aio.Channel, mesh: Mesh) -> list[mesh_pb2.Runner]:
    """All runners, as the gateway that answers sees them."""
    stub = mesh_pb2_grpc.MeshServiceStub(channel)
    answer = await stub.ListRunners(mesh_pb2.ListRunnersRequest(), metadata=mesh.metadata, timeout=5)
    return list(answer.runners)


def serves(runner: mesh_pb2.Runner, model: str) -> bool:
    """Whether calls of the model may be sent to the runner."""
    return runner.state == mesh_pb2.RUNNER_STATE_READY and any(
        loaded.model == model and loaded.state == mesh_pb2.MODEL_STATE_LOADED for loaded in runner.models
    )


async def until_runners(
    channel: grpc.aio.Channel, mesh: Mesh, holds: Callable[[list[mesh_pb2.Runner]], bool], within_s: float = 30.0
) -> float:
    """Seconds until what the gateway says of its runners is as wanted."""
    started = time.monotonic()
    while not holds(seen := await runners(channel, mesh)):
        assert time.monotonic() - started < within_s, f"not within {within_s} s: {seen}"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def until_replicas(channel: grpc.aio.Channel, mesh: Mesh, model: str, wanted: int) -> float:
    """Seconds until that many runners serve the model, or more."""
    return await until_runners(channel, mesh, lambda seen: sum(serves(runner, model) for runner in seen) >= wanted)


def retries(mesh: Mesh) -> float:
    """Calls that the gateways have sent to another runner so far."""
    return sum(
        value
        for process in mesh.current_processes().values()
        if process.name.startswith("gateway")
        for name, value in scrape(str(process.metrics)).items()
        if name.startswith("headrace_infer_retries_total")
    )


def failed(outcomes: Outcomes) -> str:
    """The failed calls in words."""
    if not outcomes.failures:
        return "0 failed"
    return ", ".join(f"{number} failed with {what}" for what, number in outcomes.failures.items())
