"""Runners die, or stand still, under load: clients notice nothing that another replica could have served."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

import grpc
import grpc.aio
import psutil
import pytest

from headrace.gateway.v1 import mesh_pb2
from inference.open_inference_pb2 import ModelInferRequest
from support.load import Outcomes, closed_loop
from support.mesh import Mesh
from support.real_inputs import FileCase
from support.replicas import failed, retries, runners, serves, until_replicas, until_runners
from support.soak import Measured

MODEL = "magika"
CALLERS = 16
KILLS = 20
BACK_WITHIN_S = 3.0
ATTEMPTS_MAX = 1.2
STOPS = 3
EJECTED_WITHIN_S = 3.0


@asynccontextmanager
async def under_load(
    channel: grpc.aio.Channel, mesh: Mesh, request: ModelInferRequest, case: FileCase
) -> AsyncIterator[Outcomes]:
    """Calls, each of which has to be answered rightly, for as long as the context lasts."""
    outcomes, stop = Outcomes(), asyncio.Event()
    load = asyncio.create_task(
        closed_loop(
            channel,
            request,
            callers=CALLERS,
            until=stop.is_set,
            outcomes=outcomes,
            metadata=mesh.metadata,
            expected=case.scores,
        )
    )
    try:
        yield outcomes
    finally:
        stop.set()
        await load


async def a_replica(channel: grpc.aio.Channel, mesh: Mesh) -> int:
    """The process of the replica that has run for longest: early deaths in a row are restarted ever later."""
    processes = mesh.current_processes()
    serving = [processes[runner.name].pid for runner in await runners(channel, mesh) if serves(runner, MODEL)]
    return min(serving, key=lambda pid: psutil.Process(pid).create_time())


@pytest.mark.parametrize("mesh", [("--runners", "4")], indirect=True)
async def test_killed_runners_cost_no_call(
    mesh: Mesh, file_request: ModelInferRequest, file_case: FileCase, measured: Measured
) -> None:
    back_s: list[float] = []
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        await until_replicas(channel, mesh, MODEL, 2)
        async with under_load(channel, mesh, file_request, file_case) as outcomes:
            for _ in range(KILLS):
                await asyncio.sleep(1.0)
                ids = {runner.id for runner in await runners(channel, mesh)}
                os.kill(await a_replica(channel, mesh), signal.SIGKILL)
                await until_runners(channel, mesh, lambda seen, ids=ids: bool(ids - {runner.id for runner in seen}))
                back_s.append(await until_replicas(channel, mesh, MODEL, 2))
    attempts = (outcomes.answered + await asyncio.to_thread(retries, mesh)) / outcomes.answered
    measured(
        f"`kill -9` of a runner ×{KILLS} under load, {CALLERS} callers, 4 runners, 2 replicas",
        f"no failed call; attempts ≤ {ATTEMPTS_MAX:.1f}×; two replicas again ≤ {BACK_WITHIN_S:.0f} s in the median",
        f"{outcomes.answered} answered, {failed(outcomes)}; attempts {attempts:.4f}×; two replicas again after "
        f"{max(back_s):.1f} s at most, median {median(back_s):.1f} s",
    )
    assert not outcomes.failures
    assert attempts <= ATTEMPTS_MAX
    assert median(back_s) <= BACK_WITHIN_S


async def test_a_runner_that_stands_still_is_ejected_and_comes_back(
    mesh: Mesh, file_request: ModelInferRequest, file_case: FileCase, measured: Measured
) -> None:
    ejected_s: list[float] = []
    back_s: list[float] = []
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        await until_replicas(channel, mesh, MODEL, 2)
        async with under_load(channel, mesh, file_request, file_case) as outcomes:
            for stop in range(STOPS):
                await asyncio.sleep(1.0)
                name = f"runner-{stop % 2}"
                pid = mesh.current_processes()[name].pid

                def takes_calls(seen: list[mesh_pb2.Runner], name: str = name) -> bool:
                    return any(runner.name == name and serves(runner, MODEL) for runner in seen)

                os.kill(pid, signal.SIGSTOP)
                try:
                    ejected_s.append(await until_runners(channel, mesh, lambda seen: not takes_calls(seen)))
                    answered = outcomes.answered
                    give_up_at = time.monotonic() + 10
                    while outcomes.answered < answered + 10 * CALLERS:
                        assert time.monotonic() < give_up_at, "calls still wait for the runner that stands still"
                        await asyncio.sleep(0.05)
                finally:
                    os.kill(pid, signal.SIGCONT)
                back_s.append(await until_runners(channel, mesh, takes_calls))
    measured(
        f"SIGSTOP of a runner ×{STOPS} under load, {CALLERS} callers, 2 runners",
        f"ejected ≤ {EJECTED_WITHIN_S:.0f} s; back after SIGCONT; no failed call",
        f"ejected after {max(ejected_s):.1f} s at most; back after {max(back_s):.1f} s at most; "
        f"{outcomes.answered} answered, {failed(outcomes)}, slowest {outcomes.quantile_ms(1.0):.0f} ms",
    )
    assert max(ejected_s) <= EJECTED_WITHIN_S
    assert not outcomes.failures
