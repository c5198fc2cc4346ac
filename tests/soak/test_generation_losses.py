"""A model's process, or its runner, is killed while it generates: clients hear no seam, or at once that it ended."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.gateway.v1.inference_pb2_grpc import InferenceServiceStub
from support.eventually import eventually
from support.generation import GREEDY, asking, provide_smollm2, text_of
from support.llama_process import running_llama
from support.mesh import Mesh
from support.model_processes import model_processes
from support.refusals import refusal
from support.replicas import until_replicas
from support.smollm2 import MODEL, PROMPTS, model_file
from support.soak import Measured

TOKENS = 64
KILL_AFTER_TOKENS = 8
STREAMS = 4
KILLS = 2
TOLD_WITHIN_S = 1.0
BACK_WITHIN_S = 10.0
ERRORS = {"MODEL_PROCESS_LOST", "GENERATION_INTERRUPTED", "RUNNER_LOST"}

pytestmark = pytest.mark.timeout(400)


@dataclass
class Heard:
    """What one client got, and when it ended."""

    messages: list[pb.GenerateResponse] = field(default_factory=list[pb.GenerateResponse])
    reason: str = ""
    ended_at: float = 0.0

    @property
    def tokens(self) -> list[int]:
        return [token for message in self.messages for delta in message.deltas for token in delta.token_ids]

    @property
    def text(self) -> str:
        return text_of(self.messages)


class Streams:
    """Generations that go on when their replica is lost, and as many that must not."""

    def __init__(self, stub: Any, mesh: Mesh) -> None:
        self._stub = stub
        self._mesh = mesh
        self.going_on: list[Heard] = []
        self.ending: list[Heard] = []
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Begins all of them."""
        for prompt in PROMPTS[:STREAMS]:
            for heard, continue_elsewhere in ((self.going_on, True), (self.ending, False)):
                request = asking(prompt, max_tokens=TOKENS, ignore_end=True)
                request.continue_elsewhere = continue_elsewhere
                heard.append(Heard())
                self._tasks.append(asyncio.create_task(self._listen(request, heard[-1])))

    async def speaking(self) -> None:
        """Returns when each has had some tokens."""
        every = [*self.going_on, *self.ending]
        await eventually(lambda: all(len(heard.tokens) >= KILL_AFTER_TOKENS for heard in every), within_s=60)

    async def ended(self) -> None:
        """Returns when all are over."""
        await asyncio.gather(*self._tasks)

    async def _listen(self, request: pb.GenerateRequest, heard: Heard) -> None:
        try:
            async for message in self._stub.Generate(request, metadata=self._mesh.metadata, timeout=90):
                heard.messages.append(message)
        except grpc.aio.AioRpcError as error:
            heard.reason = refusal(error).reason or error.code().name
        heard.ended_at = time.monotonic()


def library_texts() -> list[str]:
    """What the library makes of the prompts, undisturbed."""
    with running_llama(model_file(), slots=2) as llama:
        return llama.complete(
            [{"prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, **GREEDY} for prompt in PROMPTS[:STREAMS]]
        )


@dataclass
class Tally:
    """All that the kills did."""

    whole: int = 0
    seams: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    told_s: list[float] = field(default_factory=list[float])
    reasons: list[str] = field(default_factory=list[str])
    back_s: list[float] = field(default_factory=list[float])

    def add(self, streams: Streams, expected: list[str], killed_at: float) -> None:
        for heard, text in zip([*streams.going_on, *streams.ending], expected * 2, strict=True):
            if heard.reason:
                self.reasons.append(heard.reason)
                self.told_s.append(heard.ended_at - killed_at)
            elif heard.text == text and len(heard.tokens) == TOKENS:
                self.whole += 1
            else:
                self.seams.append((heard.text, text))
        assert not [heard.reason for heard in streams.going_on if heard.reason], [h.reason for h in streams.going_on]

    def words(self) -> str:
        """For the report."""
        told = f"{len(self.reasons)} told of it after {max(self.told_s):.2f} s at most" if self.reasons else "none told"
        return (
            f"{self.whole} whole, {len(self.seams)} with a seam, {told} ({', '.join(sorted(set(self.reasons)))}); "
            f"back after {max(self.back_s):.1f} s at most"
        )


async def lose(mesh: Mesh, kill: Callable[[], int]) -> Tally:
    """Kills something under generations, several times; gives what became of them."""
    expected = await asyncio.to_thread(library_texts)
    await asyncio.to_thread(provide_smollm2, mesh)
    tally = Tally()
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        for _ in range(KILLS):
            await until_replicas(channel, mesh, MODEL, 2)
            streams = Streams(InferenceServiceStub(channel), mesh)
            streams.begin()
            await streams.speaking()
            killed_at = time.monotonic()
            pid = kill()
            back = asyncio.create_task(seconds_until_back(mesh, channel, pid))
            await streams.ended()
            tally.back_s.append(await back)
            tally.add(streams, expected, killed_at)
    return tally


async def seconds_until_back(mesh: Mesh, channel: grpc.aio.Channel, pid: int) -> float:
    """Until both runners have a model's process that isn't the killed one, and serve the model."""
    started = time.monotonic()

    def alive() -> bool:
        processes = [[p.pid for p in found if p.pid != pid] for found in model_processes(mesh).values()]
        return len(processes) == 2 and all(processes)

    while not await asyncio.to_thread(alive):
        assert time.monotonic() - started < 60
        await asyncio.sleep(0.05)
    await until_replicas(channel, mesh, MODEL, 2)
    return time.monotonic() - started


def kill_model(mesh: Mesh) -> int:
    """Kills the model's process of the runner that has it for longest."""
    (process, *_) = sorted(
        (process for found in model_processes(mesh).values() for process in found), key=lambda p: p.create_time()
    )
    os.kill(process.pid, signal.SIGKILL)
    return process.pid


def kill_runner(mesh: Mesh) -> int:
    """Kills a runner; its model's process has to go with it."""
    runners = {name: process.pid for name, process in mesh.current_processes().items() if name.startswith("runner")}
    name = min(runners)
    ((model, *_),) = model_processes(mesh, name).values()
    os.kill(runners[name], signal.SIGKILL)
    return model.pid


async def test_a_killed_model_costs_no_stream_that_may_go_on(mesh: Mesh, measured: Measured) -> None:
    tally = await lose(mesh, lambda: kill_model(mesh))
    measured(
        f"`kill -9` of a model's process ×{KILLS} under {2 * STREAMS} generations, 2 runners",
        f"streams that may go on do so without a seam; others are told ≤ {TOLD_WITHIN_S:.0f} s; the model is back ≤ "
        f"{BACK_WITHIN_S:.0f} s",
        tally.words(),
    )
    check(tally)


async def test_a_killed_runner_costs_no_stream_that_may_go_on(mesh: Mesh, measured: Measured) -> None:
    tally = await lose(mesh, lambda: kill_runner(mesh))
    measured(
        f"`kill -9` of a runner ×{KILLS} under {2 * STREAMS} generations, 2 runners",
        f"streams that may go on do so without a seam; others are told ≤ {TOLD_WITHIN_S:.0f} s",
        tally.words(),
    )
    check(tally)


def check(tally: Tally) -> None:
    assert not tally.seams
    assert tally.reasons, "no stream was on the replica that was lost"
    assert set(tally.reasons) <= ERRORS, tally.reasons
    assert max(tally.told_s) <= TOLD_WITHIN_S
    assert max(tally.back_s) <= BACK_WITHIN_S


@pytest.mark.parametrize("mesh", [("--runners", "1")], indirect=True)
async def test_the_only_replica_s_model_is_back_soon(mesh: Mesh, measured: Measured) -> None:
    await asyncio.to_thread(provide_smollm2, mesh)
    back_s: list[float] = []
    tally = Tally()
    expected = await asyncio.to_thread(library_texts)
    async with grpc.aio.insecure_channel(mesh.grpc) as channel:
        stub: Any = InferenceServiceStub(channel)
        for _ in range(KILLS):
            streams = Streams(stub, mesh)
            streams.begin()
            await streams.speaking()
            killed_at = time.monotonic()
            kill_model(mesh)
            while True:
                try:
                    async for _message in stub.Generate(asking("x", max_tokens=1), metadata=mesh.metadata, timeout=20):
                        pass
                    break
                except grpc.aio.AioRpcError:
                    assert time.monotonic() - killed_at < 60
                    await asyncio.sleep(0.05)
            tally.back_s.append(time.monotonic() - killed_at)
            await streams.ended()
            for heard, text in zip([*streams.going_on, *streams.ending], expected * 2, strict=True):
                if heard.reason:
                    tally.reasons.append(heard.reason)
                    back_s.append(heard.ended_at - killed_at)
                elif heard.text == text:
                    tally.whole += 1
                else:
                    tally.seams.append((heard.text, text))
    tally.told_s = back_s
    measured(
        f"`kill -9` of the only model's process ×{KILLS} under {2 * STREAMS} generations",
        f"streams go on once it is back, without a seam, or are told ≤ {TOLD_WITHIN_S:.0f} s; the next answer ≤ "
        f"{BACK_WITHIN_S:.0f} s",
        tally.words(),
    )
    check(tally)
