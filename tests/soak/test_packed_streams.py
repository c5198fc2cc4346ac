"""Many clients with packed streams that are cancelled, left and broken: every call ends once, with its own answer."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from headrace_client.async_client import AsyncClient
from support.breaking_proxy import BreakingProxy, breaking_proxy
from support.mesh import Mesh
from support.onnx_models import identity
from support.soak import Measured, held, settled

PROCESSES = 20
CALLS = 200_000
BREAK_EVERY_S = 0.25
MODEL = "nonce"
STREAM_CALLER = Path(__file__).with_name("stream_caller.py")


async def client_process(address: str, api_key: str, number: int) -> tuple[Counter[str], int]:
    """How a client process's calls ended, and how many streams it left with calls in flight."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(STREAM_CALLER), address, api_key, MODEL, str(number), str(CALLS // PROCESSES)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        told, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode(errors="replace")[-4000:]
    report = json.loads(told)
    return Counter(report["outcomes"]), report["streams_left"]


async def breaking(proxy: BreakingProxy) -> None:
    """Breaks a random connection every now and then."""
    chance = Random(5)
    while True:
        await asyncio.sleep(BREAK_EVERY_S)
        proxy.break_one(chance)


@pytest.mark.timeout(900)
async def test_every_call_of_many_clients_ends_once_and_with_its_own_answer(mesh: Mesh, measured: Measured) -> None:
    async with AsyncClient(mesh.grpc, api_key=mesh.api_key) as client:
        await client.models.push(identity("INT64", ("batch", 1)), name=MODEL)
        await client.models.load(MODEL)
    before = await settled(mesh, {})
    started = time.monotonic()
    async with breaking_proxy(mesh.grpc) as proxy:
        breaks = asyncio.create_task(breaking(proxy))
        reports = await asyncio.gather(
            *(client_process(proxy.address, mesh.api_key, number) for number in range(PROCESSES))
        )
        breaks.cancel()
    took_s = time.monotonic() - started
    outcomes = sum((outcomes for outcomes, _ in reports), Counter[str]())
    after = await settled(mesh, before)
    measured(
        f"{PROCESSES} client processes with packed streams, {CALLS:,} calls, cancelled at random, streams left and "
        "connections broken",
        "every call ends exactly once; no foreign answer; no call fails; all that calls hold comes back",
        f"{', '.join(f'{number:,} {what}' for what, number in sorted(outcomes.items()))}; 0 foreign; "
        f"{sum(left for _, left in reports)} streams left with calls in flight, {proxy.breaks} connections broken, "
        f"{CALLS / took_s:,.0f} calls/s",
    )
    assert set(outcomes) <= {"answered", "cancelled", "left"}, outcomes
    assert outcomes.total() == CALLS
    assert outcomes["cancelled"] > CALLS // 100
    assert proxy.breaks >= PROCESSES
    assert after == before, await asyncio.to_thread(held, mesh)
