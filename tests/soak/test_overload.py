"""More calls than a runner can compute: what can be answered is, the rest is refused at once, nobody else suffers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import grpc
import grpc.aio
import psutil
import pytest

from headrace_client.async_client import AsyncClient
from inference.open_inference_pb2 import ModelInferRequest
from support import onnx_models
from support.load import Outcomes, closed_loop, quantile
from support.mesh import Mesh
from support.parties import operator
from support.soak import Measured, Tensor

MODEL = "counting"
CALLER = Path(__file__).with_name("overload_caller.py")
ONE_AT_A_TIME = {"execution": {"instances": 1, "threads": 1}}
EXECUTION_S = 0.020
ROUNDS = 3
PEAK_S = 6.0
OVERLOAD = 5
OVERLOAD_S = 12.0
TIMEOUT_S = 2.0
GOODPUT_MIN = 0.9
REFUSED_MS_MAX = 50.0
GROWTH_BYTES_MAX = 16 << 20

SHARES = 20
LONG = 5
FAIR_ROUNDS = 5
FAIR_S = 8.0
P99_RATIO_MAX = 1.5

Ends = dict[str, list[float]]


async def calls(mesh: Mesh, *, key: str, per_s: float, for_s: float, steps: str, timeout_s: float = TIMEOUT_S) -> Ends:
    """How calls at a fixed rate from another process ended, with their latencies in milliseconds."""
    options = (mesh.grpc, key, MODEL, str(per_s), str(for_s), str(timeout_s), steps)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CALLER),
        *options,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CALLER.parents[1])},
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return json.loads(told)


async def push(mesh: Mesh, key: str) -> None:
    """Registers the counting model, which executes one call at a time, for the owner of a key, and loads it."""
    async with AsyncClient(mesh.grpc, api_key=key) as client:
        await client.models.push(onnx_models.counting_loop(), name=MODEL, manifest=ONE_AT_A_TIME)
        await client.models.load(MODEL)


async def steps_that_take(mesh: Mesh, key: str, seconds: float) -> int:
    """How many steps of the counting model take so long on this machine, the way there and back included."""
    steps = 1_000
    async with AsyncClient(mesh.grpc, api_key=key) as client:
        while True:
            took: list[float] = []
            for _ in range(20):
                started = time.perf_counter()
                await client.infer(MODEL, {"x": 0, "y": steps})
                took.append(time.perf_counter() - started)
            # The least is what it takes; the rest is what else the machine did.
            if min(took) >= seconds / 2:
                return max(1, round(steps * seconds / min(took)))
            steps *= 2


async def peak(mesh: Mesh, steps: int) -> float:
    """Calls a second that the model answers when it always has one and few wait."""
    request = ModelInferRequest(
        model_name=MODEL,
        inputs=[Tensor(name=name, datatype="INT64", shape=[]) for name in ("x", "y")],
        raw_input_contents=[number.to_bytes(8, "little") for number in (0, steps)],
    )
    outcomes = Outcomes()
    over_at = time.monotonic() + PEAK_S
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        await closed_loop(
            channel,
            request,
            callers=4,
            until=lambda: time.monotonic() > over_at,
            outcomes=outcomes,
            metadata=mesh.metadata,
        )
    assert not outcomes.failures
    return outcomes.answered / (PEAK_S + time.monotonic() - over_at)


def memory(mesh: Mesh) -> dict[str, int]:
    """Resident bytes of the gateway and the runner."""
    return {
        process.name: psutil.Process(process.pid).memory_info().rss
        for process in mesh.current_processes().values()
        if process.name.startswith(("gateway", "runner"))
    }


@pytest.mark.parametrize("mesh", [("--runners", "1", "--no-samples")], indirect=True)
async def test_five_times_too_many_calls_cost_no_goodput(mesh: Mesh, measured: Measured) -> None:
    await push(mesh, mesh.api_key)
    steps = str(await steps_that_take(mesh, mesh.api_key, EXECUTION_S))
    peaks: list[float] = []
    goodputs: list[float] = []
    expired = 0
    grown: dict[str, int] = {}
    refusals: dict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        peak_per_s = await peak(mesh, int(steps))
        before = memory(mesh)
        overload = await calls(mesh, key=mesh.api_key, per_s=OVERLOAD * peak_per_s, for_s=OVERLOAD_S, steps=steps)
        if number:
            # The first overload brings memory to its steady state.
            grown = {name: max(grown.get(name, 0), now - before[name]) for name, now in memory(mesh).items()}
        peaks.append(peak_per_s)
        goodputs.append(len(overload.pop("answered")) / OVERLOAD_S)
        expired += len(overload.pop("expired", ()))
        assert "wrong" not in overload
        for words, latencies in overload.items():
            refusals[re.sub(r"[0-9.]+", "…", words)] += latencies
    share = median(good / peak for good, peak in zip(goodputs, peaks, strict=True))
    refused_ms = [ms for latencies in refusals.values() for ms in latencies]
    p99_ms = quantile(refused_ms, 0.99)
    by_words = {words: (len(ms), round(quantile(ms, 0.5)), round(quantile(ms, 0.99))) for words, ms in refusals.items()}
    measured(
        f"{OVERLOAD}× overload of a model that takes {1000 * EXECUTION_S:.0f} ms, one at a time, {ROUNDS} rounds of "
        f"{OVERLOAD_S:.0f} s",
        f"goodput ≥ {GOODPUT_MIN:.0%} of peak; refused < {REFUSED_MS_MAX:.0f} ms p99; memory flat "
        f"(≤ {GROWTH_BYTES_MAX >> 20} MiB)",
        f"peak {median(peaks):.0f}/s, goodput {median(goodputs):.0f}/s, {share:.0%}; {len(refused_ms)} refused, p99 "
        f"{p99_ms:.1f} ms, {expired} expired; "
        + ", ".join(f"{name} {grew / (1 << 20):+.1f} MiB" for name, grew in sorted(grown.items())),
    )
    assert share >= GOODPUT_MIN
    assert refused_ms, "five times too many calls can't all be answered"
    assert p99_ms < REFUSED_MS_MAX, by_words
    assert max(grown.values()) <= GROWTH_BYTES_MAX


@asynccontextmanager
async def flood(mesh: Mesh, *, key: str, per_s: float, steps: str) -> AsyncIterator[list[Ends]]:
    """Calls of another tenant a moment before and for as long as the context lasts; then the list holds their ends."""
    ends: list[Ends] = []
    calling = asyncio.create_task(calls(mesh, key=key, per_s=per_s, for_s=FAIR_S + 3.0, steps=steps))
    await asyncio.sleep(1.5)
    yield ends
    ends.append(await calling)


@pytest.mark.parametrize("mesh", [("--runners", "1", "--no-samples")], indirect=True)
async def test_a_tenant_far_above_its_share_does_not_slow_another(mesh: Mesh, measured: Measured) -> None:
    with grpc.insecure_channel(mesh.grpc) as channel:
        _, other = operator(mesh, channel).tenant().admin.metadata[0]
    for key in (mesh.api_key, other):
        await push(mesh, key)
    short = await steps_that_take(mesh, mesh.api_key, EXECUTION_S / (1 + 0.05 * (LONG - 1)))
    steps = f"{short},{LONG * short}"
    share_per_s = 0.5 / EXECUTION_S
    alone_ms: list[float] = []
    beside_ms: list[float] = []
    answered = 0
    failures: set[str] = set()
    for _ in range(FAIR_ROUNDS):
        alone = await calls(mesh, key=other, per_s=share_per_s / 2, for_s=FAIR_S, steps=steps)
        async with flood(mesh, key=mesh.api_key, per_s=SHARES * share_per_s, steps=steps) as ends:
            beside = await calls(mesh, key=other, per_s=share_per_s / 2, for_s=FAIR_S, steps=steps)
        answered += len(ends[0]["answered"])
        failures |= (set(alone) | set(beside)) - {"answered"}
        alone_ms.append(quantile(alone["answered"], 0.99))
        beside_ms.append(quantile(beside["answered"], 0.99))
    ratio = median(beside / alone for beside, alone in zip(beside_ms, alone_ms, strict=True))
    measured(
        f"tenant A at {SHARES}× its share of a runner, tenant B at half of its own, the same model, one call in twenty "
        f"{LONG}× as long, {FAIR_ROUNDS} interleaved rounds of {FAIR_S:.0f} s",
        f"B's p99 ≤ {P99_RATIO_MAX:.1f}× its p99 alone, median of the rounds; no failure of B",
        f"{median(alone_ms):.0f} ms alone, {median(beside_ms):.0f} ms beside A's {SHARES * share_per_s:.0f} calls/s "
        f"({answered / FAIR_ROUNDS / (FAIR_S + 3):.0f}/s answered): {ratio:.2f}×; B's failures: "
        f"{', '.join(sorted(failures)) or 'none'}",
    )
    assert not failures
    assert ratio <= P99_RATIO_MAX
