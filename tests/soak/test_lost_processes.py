"""Processes die under load; clients notice nothing that another replica could have served."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from headrace.gateway.v1 import mesh_pb2, mesh_pb2_grpc
from inference.open_inference_pb2 import ModelInferRequest
from support.load import Outcomes, closed_loop
from support.mesh import Mesh
from support.real_inputs import FileCase
from support.soak import Measured

KILLS = 8
BACK_WITHIN_S = 3.0

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


def failed(outcomes: Outcomes) -> str:
    """The failed calls in words."""
    if not outcomes.failures:
        return "0 failed"
    return ", ".join(f"{number} failed with {what}" for what, number in outcomes.failures.items())


async def serving_replicas(channel: grpc.aio.Channel, mesh: Mesh) -> int:
    """Runners that this gateway may send magika's calls to."""
    stub = mesh_pb2_grpc.MeshServiceStub(channel)
    answer = await stub.ListRunners(mesh_pb2.ListRunnersRequest(), metadata=mesh.metadata, timeout=5)
    return sum(
        runner.state == mesh_pb2.RUNNER_STATE_READY
        and any(model.model == "magika" and model.state == mesh_pb2.MODEL_STATE_LOADED for model in runner.models)
        for runner in answer.runners
    )


async def until_replicas(channel: grpc.aio.Channel, mesh: Mesh, wanted: int, within_s: float = 30.0) -> float:
    """Seconds until that many runners serve magika."""
    started = time.monotonic()
    while await serving_replicas(channel, mesh) != wanted:
        assert time.monotonic() - started < within_s, f"not {wanted} replicas within {within_s} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def test_killed_runner_costs_no_call_and_is_back_within_three_seconds(
    mesh: Mesh, file_request: ModelInferRequest, file_case: FileCase, measured: Measured
) -> None:
    outcomes, stop = Outcomes(), asyncio.Event()
    back_s: list[float] = []
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        await until_replicas(channel, mesh, 2)
        load = asyncio.create_task(
            closed_loop(
                channel,
                file_request,
                callers=16,
                until=stop.is_set,
                outcomes=outcomes,
                metadata=mesh.metadata,
                expected=file_case.scores.tobytes(),
            )
        )
        for kill in range(KILLS):
            await asyncio.sleep(1.0)
            victim = mesh.current_processes()[f"runner-{kill % 2}"]
            os.kill(victim.pid, signal.SIGKILL)
            await until_replicas(channel, mesh, 1)
            back_s.append(await until_replicas(channel, mesh, 2))
            if kill < KILLS - 1:
                # Early deaths in a row are restarted ever later; this proof is about the first one.
                await asyncio.sleep(21.0 if kill % 2 else 1.0)
        stop.set()
        await load
    measured(
        f"`kill -9` of a runner ×{KILLS} under load, 16 callers, 2 runners",
        f"no failed call; back ≤ {BACK_WITHIN_S:.0f} s",
        f"{outcomes.answered} answered, {failed(outcomes)}; back after "
        f"{max(back_s):.1f} s at most, median {sorted(back_s)[len(back_s) // 2]:.1f} s",
    )
    assert not outcomes.failures
    assert max(back_s) <= BACK_WITHIN_S


@pytest.mark.parametrize("mesh", [("--gateways", "2")], indirect=True)
async def test_stopped_services_exit_well_and_lose_no_call(
    mesh: Mesh, file_request: ModelInferRequest, file_case: FileCase, measured: Measured
) -> None:
    gateways = [process.grpc for process in mesh.named("gateway")]
    assert len(gateways) == 2
    target = "ipv4:" + ",".join(str(address) for address in gateways)
    outcomes, stop = Outcomes(), asyncio.Event()
    stopped: list[str] = []
    async with grpc.aio.insecure_channel(target, options=[("grpc.service_config", RETRYING)]) as channel:
        load = asyncio.create_task(
            closed_loop(
                channel,
                file_request,
                callers=16,
                until=stop.is_set,
                outcomes=outcomes,
                metadata=mesh.metadata,
                expected=file_case.scores.tobytes(),
            )
        )
        for name in ("runner-0", "registry", "quota", "gateway-1", "runner-1", "gateway-0"):
            await asyncio.sleep(2.0)
            before = mesh.current_processes()[name].pid
            os.kill(before, signal.SIGTERM)
            await restarted(mesh, name, before)
            stopped.append(name)
            await asyncio.sleep(3.0)
        stop.set()
        await load
    codes = exit_codes(mesh.log)
    measured(
        "SIGTERM of each service in turn under load, 16 retrying callers, 2 gateways, 2 runners",
        "exit 0; no call lost",
        f"{outcomes.answered} answered, {failed(outcomes)}; exit codes "
        + ", ".join(f"{name} {codes.get(name, '?')}" for name in stopped),
    )
    assert not outcomes.failures
    assert {name: codes.get(name) for name in stopped} == dict.fromkeys(stopped, 0)


async def restarted(mesh: Mesh, name: str, before: int, within_s: float = 30.0) -> None:
    """Returns when the supervisor has the process up again."""
    give_up_at = time.monotonic() + within_s
    while mesh.current_processes()[name].pid == before:
        assert time.monotonic() < give_up_at, f"{name} was not restarted: {mesh.log.read_text()[-2000:]}"
        await asyncio.sleep(0.1)


def exit_codes(log: Path) -> dict[str, int]:
    """Exit codes by process, as the supervisor tells them."""
    text = " ".join(log.read_text(errors="replace").split())
    found = re.findall(r"(\S+) \(pid \d+\) (?:exited with (\d+)|was [a-z ]+ and left)", text)
    return {name: int(code or 0) for name, code in found}
