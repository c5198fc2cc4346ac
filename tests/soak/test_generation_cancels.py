"""Generations are cancelled while the prompt or the text is computed: everything that they held comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import grpc.aio
import psutil
import pytest

from headrace.gateway.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_client.async_client import AsyncClient
from support.eventually import eventually
from support.generation import asking, provide_smollm2
from support.mesh import Mesh
from support.model_processes import computing_s, model_processes, resident_mib
from support.smollm2 import MODEL
from support.soak import Measured, settled

MID_STREAM, MID_PREFILL, WARM_UP = 400, 100, 16
CALLERS = 8
PROMPT_TOKENS = 1_000
GROWTH_MIB_MAX = 16.0
LEFT_MIB_MAX = 24.0
GIVEN_BACK_S = 12.0
LOADS_AGAIN = 3
VOCABULARY = 49_152


class Canceller:
    """Begins generations and cancels each at a random moment of its kind."""

    def __init__(self, stub: Any, mesh: Mesh) -> None:
        self._stub = stub
        self._mesh = mesh
        self._chance = Random(11)
        self.ends: Counter[str] = Counter()

    async def mid_stream(self) -> None:
        """Cancelled after some tokens."""
        wanted = self._chance.randint(1, 12)
        call = self._call(asking(f"Tell me about the number {self._chance.random()}", max_tokens=400, ignore_end=True))
        heard = 0
        async for message in call:
            heard += sum(len(delta.token_ids) for delta in message.deltas)
            if heard >= wanted:
                call.cancel()
                self.ends["cancelled mid-stream"] += 1
                return
        self.ends["ended"] += 1

    async def mid_prefill(self) -> None:
        """Cancelled when some of a long prompt, that nobody has computed before, is computed."""
        tokens = [self._chance.randrange(100, VOCABULARY) for _ in range(PROMPT_TOKENS)]
        request = asking(tokens, max_tokens=400)
        request.report_progress = True
        call = self._call(request)
        wanted = self._chance.choice((0, 0, 1, 100))
        async for message in call:
            if message.deltas:
                self.ends["too late"] += 1
                call.cancel()
                return
            if message.progress.computed_tokens >= wanted:
                call.cancel()
                self.ends["cancelled mid-prefill"] += 1
                return
        self.ends["ended"] += 1

    def _call(self, request: Any) -> Any:
        return self._stub.Generate(request, metadata=self._mesh.metadata, timeout=120)

    async def run(self, *, mid_stream: int, mid_prefill: int) -> None:
        """So many of both kinds, mixed, a few at the same time."""
        kinds = [self.mid_stream] * mid_stream + [self.mid_prefill] * mid_prefill
        self._chance.shuffle(kinds)

        async def caller() -> None:
            while kinds:
                await kinds.pop()()

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def unload(client: AsyncClient, mesh: Mesh) -> None:
    """Unloads the model, and waits until its process is gone."""
    await client.models.unload(MODEL)
    await eventually(lambda: not any(model_processes(mesh).values()), within_s=10)


async def least_mib(process: psutil.Process, *, enough: float = 0.0) -> float:
    """The least memory that a process takes within the time in which a runner hands freed memory back."""
    least = resident_mib(process)
    for _ in range(int(GIVEN_BACK_S)):
        if least <= enough:
            break
        await asyncio.sleep(1.0)
        least = min(least, resident_mib(process))
    return least


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mesh", [("--runners", "1")], indirect=True)
async def test_cancelled_generations_and_unloaded_models_give_everything_back(mesh: Mesh, measured: Measured) -> None:
    processes = mesh.current_processes()
    gateway, runner = (psutil.Process(processes[name].pid) for name in ("gateway-0", "runner-0"))
    async with AsyncClient(mesh.grpc, api_key=mesh.api_key) as client, grpc.aio.insecure_channel(mesh.grpc) as channel:
        # What the first model of its kind brings for good, libraries above all, is nobody's leak.
        await asyncio.to_thread(provide_smollm2, mesh)
        await unload(client, mesh)
        empty_mib = await least_mib(runner)
        await asyncio.to_thread(provide_smollm2, mesh)
        canceller = Canceller(InferenceServiceStub(channel), mesh)
        before_calls = await settled(mesh, {}, within_s=2.0)
        await canceller.run(mid_stream=WARM_UP, mid_prefill=WARM_UP)
        await settled(mesh, before_calls)
        ((model,),) = model_processes(mesh).values()
        before = [resident_mib(process) for process in (gateway, runner, model)]
        canceller.ends.clear()
        await canceller.run(mid_stream=MID_STREAM, mid_prefill=MID_PREFILL)
        held = await settled(mesh, before_calls)
        computed_s = computing_s(model)
        await asyncio.sleep(1.0)
        idle = computing_s(model) - computed_s < 0.1
        after = [resident_mib(process) for process in (gateway, runner, model)]
        loaded_mib = resident_mib(runner, model)
        await unload(client, mesh)
        left_mib = await least_mib(runner, enough=empty_mib + LEFT_MIB_MAX) - empty_mib
        for _ in range(LOADS_AGAIN):
            await asyncio.to_thread(provide_smollm2, mesh)
            await unload(client, mesh)
        again_mib = await least_mib(runner, enough=empty_mib + LEFT_MIB_MAX) - empty_mib
    grown = [new - old for new, old in zip(after, before, strict=True)]
    measured(
        f"{MID_STREAM + MID_PREFILL} generations cancelled mid-stream and mid-prefill, {CALLERS} callers; then unload",
        f"slots and tasks back; memory flat (≤ {GROWTH_MIB_MAX:.0f} MiB); unload gives the memory back",
        f"{', '.join(f'{number} {what}' for what, number in sorted(canceller.ends.items()))}; "
        f"{'all back' if held == before_calls else 'not all back'}, the model {'idle' if idle else 'computes'}; "
        f"gateway {grown[0]:+.1f}, runner {grown[1]:+.1f}, model {grown[2]:+.1f} MiB; runner with model "
        f"{loaded_mib:.0f} MiB, unloaded {empty_mib + left_mib:.0f}, before it was loaded again {empty_mib:.0f}, "
        f"after {LOADS_AGAIN} more loads {empty_mib + again_mib:.0f}",
    )
    assert canceller.ends["cancelled mid-stream"] == MID_STREAM
    assert canceller.ends["cancelled mid-prefill"] >= 0.9 * MID_PREFILL, canceller.ends
    assert held == before_calls
    assert idle
    assert max(grown) <= GROWTH_MIB_MAX
    assert max(left_mib, again_mib) <= LEFT_MIB_MAX
