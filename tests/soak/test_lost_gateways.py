"""Gateways die and every service is restarted under load: clients that retry notice nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from urllib.error import URLError

import grpc
import grpc.aio
import numpy as np
import pytest

from headrace_client.async_client import AsyncClient
from headrace_client.errors import HeadraceError
from inference.open_inference_pb2 import ModelInferRequest
from support.load import Outcomes, closed_loop
from support.mesh import Mesh
from support.real_inputs import FileCase
from support.replicas import RETRYING, failed
from support.soak import Measured, restart, scrape

KILLS = 4
BACK_WITHIN_S = 2.0
CALLERS = 4
RUNNERS = 2
RESTARTS = 2


def addresses(mesh: Mesh) -> list[str]:
    """Where the gateways answer the public: a port for each, or one that they share."""
    return sorted({str(process.grpc) for process in mesh.named("gateway")})


async def gateway_metrics(mesh: Mesh, name: str) -> dict[str, float] | None:
    """The metrics of a gateway, None while it is not up."""
    try:
        return await asyncio.to_thread(scrape, str(mesh.current_processes()[name].metrics))
    except (URLError, OSError, KeyError):
        return None


async def runners_back_s(mesh: Mesh, name: str, before: int, within_s: float = 30.0) -> tuple[float, float]:
    """Seconds until a killed gateway is up again, and from then on until all runners are with it."""
    killed = time.monotonic()
    up_s = 0.0
    while True:
        assert time.monotonic() - killed < within_s, f"{name} is not back: {mesh.log.read_text()[-2000:]}"
        metrics = await gateway_metrics(mesh, name) if mesh.current_processes()[name].pid != before else None
        if metrics is not None:
            up_s = up_s or time.monotonic() - killed
            if metrics.get("headrace_mesh_runners") == RUNNERS:
                return up_s, time.monotonic() - killed - up_s
        await asyncio.sleep(0.02)


async def sdk_caller(address: str, mesh: Mesh, case: FileCase, stop: asyncio.Event, ends: Counter[str]) -> None:
    """Calls through the SDK as it is by default, and counts how each call ended."""
    async with AsyncClient(address, api_key=mesh.api_key) as client:
        while not stop.is_set():
            try:
                result = await client.infer("magika", {"bytes": case.features.reshape(1, -1)})
            except HeadraceError as error:
                ends[f"{error.reason}: {error}"] += 1
            else:
                (scores,) = result.outputs.values()
                right = np.allclose(scores.reshape(-1), case.scores, atol=1e-4)
                ends["answered" if right else "wrong"] += 1


@pytest.mark.parametrize("mesh", [("--gateways", "2")], indirect=True)
async def test_a_killed_gateway_has_its_runners_back_and_clients_that_retry_see_nothing(
    mesh: Mesh, file_case: FileCase, measured: Measured
) -> None:
    stop, ends = asyncio.Event(), Counter[str]()
    up_s: list[float] = []
    back_s: list[float] = []
    shared = len(addresses(mesh)) == 1
    # A client with one address outlives the gateway behind it only where another gateway answers there, too.
    target = addresses(mesh)[0]
    callers = [asyncio.create_task(sdk_caller(target, mesh, file_case, stop, ends)) for _ in range(CALLERS)]
    for kill in range(KILLS):
        await asyncio.sleep(2.0)
        name = f"gateway-{kill % 2}" if shared else "gateway-1"
        before = mesh.current_processes()[name].pid
        os.kill(before, signal.SIGKILL)
        up, back = await runners_back_s(mesh, name, before)
        up_s.append(up)
        back_s.append(back)
    stop.set()
    await asyncio.gather(*callers)
    measured(
        f"`kill -9` of one of 2 gateways ×{KILLS} under load of {CALLERS} SDK clients",
        f"runners back ≤ {BACK_WITHIN_S:.0f} s after it is up; clients see nothing",
        f"up again after {max(up_s):.1f} s, runners back {max(back_s):.2f} s later at most; "
        f"{', '.join(f'{number} {what}' for what, number in ends.items())}",
    )
    assert max(back_s) <= BACK_WITHIN_S
    assert set(ends) == {"answered"}, ends
    assert shared, "the gateways of one machine share the public port"


@pytest.mark.parametrize("mesh", [("--gateways", "2")], indirect=True)
async def test_a_rolling_restart_of_every_service_loses_no_call(
    mesh: Mesh, file_request: ModelInferRequest, file_case: FileCase, measured: Measured
) -> None:
    target = "ipv4:" + ",".join(addresses(mesh))
    before = mesh.current_processes()
    outcomes, stop = Outcomes(), asyncio.Event()
    async with grpc.aio.insecure_channel(target, options=[("grpc.service_config", RETRYING)]) as channel:
        load = asyncio.create_task(
            closed_loop(
                channel,
                file_request,
                callers=16,
                until=stop.is_set,
                outcomes=outcomes,
                metadata=mesh.metadata,
                expected=file_case.scores,
            )
        )
        await asyncio.sleep(2.0)
        started = time.monotonic()
        for _ in range(RESTARTS):
            await restart(mesh)
        took_s = time.monotonic() - started
        await asyncio.sleep(2.0)
        stop.set()
        await load
    restarted = sorted(name for name, now in mesh.current_processes().items() if now.pid != before[name].pid)
    measured(
        f"rolling restart of every service ×{RESTARTS} under load, 16 retrying callers, 2 gateways, 2 runners",
        "no failed call",
        f"{outcomes.answered} answered, {failed(outcomes)}, slowest {outcomes.quantile_ms(1.0):.0f} ms; a restart of "
        f"{len(restarted)} processes took {took_s / RESTARTS:.0f} s",
    )
    assert not outcomes.failures
    assert {"gateway-0", "gateway-1", "runner-0", "runner-1", "registry", "quota"} <= set(restarted)
