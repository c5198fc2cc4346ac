"""Many clients stop reading what a model generates for them: that costs the gateway little, and others nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.gateway.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_client.async_client import AsyncClient
from inference.open_inference_pb2 import ModelInferRequest
from support.generation import asking
from support.load import Outcomes, closed_loop
from support.mesh import Mesh
from support.real_inputs import FileCase
from support.refusals import refusal
from support.soak import Measured, held, settled
from support.toy_language import toy_language_model

MODEL = "toy"
CLIENTS = 100
SLOTS = 104
WORD_BYTES = 64 << 10
"""Of each token: the library's work grows with the number of tokens."""
READ_TOKENS, UNREAD_TOKENS = 12, 24
"""What may be left unread for a while, and what may not. Both are about as much work: the latter are cut at 14."""
HELD_MIB_MAX = 1.0
# A client that reads nothing has a stream's window, and one message or two are under way.
RECEIVED_MIB_MAX = 1.0 + 0.25
SLOWER_MAX = 1.5
# Of a few generations.
GENERATION_SLOWER_MAX = 2.0
TASKS = "headrace_asyncio_tasks"
ENDING_TASKS_MAX = 2
"""Of a call whose client has yet to read its status."""
OTHERS = 3
"""Calls that others have open."""
# A window that stays as small as it begins.
WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))


@dataclass
class Others:
    """What became of those who read meanwhile."""

    inferences: Outcomes = field(default_factory=Outcomes)
    generations_s: list[float] = field(default_factory=list[float])
    wrong: int = 0


async def generating(stub: Any, mesh: Mesh, stop: asyncio.Event, others: Others) -> None:
    """One generation after another, each of which has to come whole."""
    while not stop.is_set():
        size, started = 0, time.monotonic()
        async for message in stub.Generate(asking("x", model=MODEL, max_tokens=2), metadata=mesh.metadata, timeout=60):
            size += sum(len(delta.text.encode()) for delta in message.deltas)
        others.generations_s.append(time.monotonic() - started)
        others.wrong += size != 2 * WORD_BYTES


@asynccontextmanager
async def others_read(
    channel: grpc.aio.Channel, mesh: Mesh, request: ModelInferRequest, case: FileCase
) -> AsyncIterator[Others]:
    """Others use the same model and another one, for as long as the context lasts."""
    others, stop = Others(), asyncio.Event()
    loads = asyncio.gather(
        closed_loop(
            channel,
            request,
            callers=2,
            until=stop.is_set,
            outcomes=others.inferences,
            metadata=mesh.metadata,
            expected=case.scores,
        ),
        generating(InferenceServiceStub(channel), mesh, stop, others),
    )
    try:
        yield others
    finally:
        stop.set()
        await loads


async def read(call: Any) -> tuple[int, str]:
    """Bytes of all messages of a stream, and how it ended."""
    size = 0
    try:
        async for message in call:
            size += message.ByteSize()
    except grpc.aio.AioRpcError as error:
        return size, refusal(error).reason
    return size, "ended"


async def highest_mib(process: psutil.Process, until: asyncio.Event) -> float:
    """The most memory that a process had."""
    highest = 0.0
    while not until.is_set():
        highest = max(highest, process.memory_info().rss / (1 << 20))
        await asyncio.sleep(0.05)
    return highest


class Crowd:
    """Clients, each with a connection of its own, that ask for more than they may leave unread."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._stack = AsyncExitStack()
        self._stubs: list[Any] = []

    async def __aenter__(self) -> Crowd:
        for _ in range(CLIENTS):
            channel = await self._stack.enter_async_context(
                grpc.aio.insecure_channel(self._mesh.grpc, options=list(WINDOW))
            )
            self._stubs.append(InferenceServiceStub(channel))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def ask(self, tokens: int) -> list[Any]:
        """The calls of all of them."""
        request: pb.GenerateRequest = asking("hello", model=MODEL, max_tokens=tokens, ignore_end=True)
        return [stub.Generate(request, metadata=self._mesh.metadata, timeout=200) for stub in self._stubs]


async def all_over(mesh: Mesh) -> float:
    """Seconds until the gateway has no open call of the crowd any more, whose clients read nothing."""

    async def until(holds: Callable[[float], bool]) -> None:
        async with asyncio.timeout(150):
            while not holds((await asyncio.to_thread(held, mesh))["headrace_mesh_calls_open"]):
                await asyncio.sleep(0.1)

    started = time.monotonic()
    await until(lambda calls: calls > OTHERS)
    await until(lambda calls: calls <= OTHERS)
    return time.monotonic() - started


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mesh", [("--runners", "1")], indirect=True)
async def test_clients_that_stop_reading_are_cut_and_harm_nobody(
    mesh: Mesh, file_request: ModelInferRequest, file_case: FileCase, measured: Measured
) -> None:
    gateway = psutil.Process(mesh.current_processes()["gateway-0"].pid)
    language = {"slots": SLOTS, "context_length": 256, "prompt_batch": 128}
    async with (
        AsyncClient(mesh.grpc, api_key=mesh.api_key) as client,
        grpc.aio.insecure_channel(mesh.grpc) as channel,
        Crowd(mesh) as crowd,
    ):
        await client.models.push(toy_language_model(WORD_BYTES), name=MODEL, manifest={"language": language})
        await client.models.load(MODEL)
        await client.models.load("magika")
        async with others_read(channel, mesh, file_request, file_case) as beside_readers:
            all_read = await asyncio.gather(*(read(call) for call in crowd.ask(READ_TOKENS)))
        before_calls = await settled(mesh, {}, within_s=2.0)
        before_mib, done = gateway.memory_info().rss / (1 << 20), asyncio.Event()
        watch = asyncio.create_task(highest_mib(gateway, done))
        async with others_read(channel, mesh, file_request, file_case) as beside_sleepers:
            calls = crowd.ask(UNREAD_TOKENS)
            cut_s = await all_over(mesh)
        done.set()
        held_mib = (await watch - before_mib) / CLIENTS
        # Nothing has been read yet, not even how they ended.
        unread_calls = await settled(mesh, before_calls)
        waiting_tasks = unread_calls[TASKS] - before_calls[TASKS]
        unread_calls[TASKS] = before_calls[TASKS]
        got = await asyncio.gather(*(read(call) for call in calls))
        held_calls = await settled(mesh, before_calls)
        late = crowd.ask(READ_TOKENS)
        await all_over(mesh)
        late_read = await asyncio.gather(*(read(call) for call in late))
    given_back = unread_calls == held_calls == before_calls
    ends = Counter(reason for _, reason in got)
    received_mib = max(size for size, _ in got) / (1 << 20)
    slower = median(beside_sleepers.inferences.latencies_s) / median(beside_readers.inferences.latencies_s)
    generation_slower = median(beside_sleepers.generations_s) / median(beside_readers.generations_s)
    measured(
        f"{CLIENTS} clients that stop reading {UNREAD_TOKENS * WORD_BYTES / (1 << 20):.1f} MiB of generated text each",
        f"≤ {HELD_MIB_MAX:.0f} MiB held for each in the gateway; cut at the limit, and not for "
        f"{READ_TOKENS * WORD_BYTES / (1 << 20):.2f} MiB that are read late; others unaffected (median latency "
        f"≤ {SLOWER_MAX}×, of generations ≤ {GENERATION_SLOWER_MAX}× of that beside {CLIENTS} clients that read)",
        f"{held_mib:.2f} MiB each; {', '.join(f'{number} {reason}' for reason, number in ends.items())} after "
        f"{cut_s:.1f} s, {'all' if given_back else 'not all'} given back before they read, "
        f"{received_mib:.2f} MiB at most to be read then; "
        f"{sum(reason == 'ended' for _, reason in late_read)} of {CLIENTS} late readers got all; others: "
        f"{beside_sleepers.inferences.answered} inferences at {slower:.2f}×, {len(beside_sleepers.generations_s)} "
        f"generations at {generation_slower:.2f}×, {beside_sleepers.wrong} wrong, "
        f"{sum(beside_sleepers.inferences.failures.values())} failed",
    )
    assert Counter(reason for _, reason in all_read) == {"ended": CLIENTS}
    assert Counter(reason for _, reason in late_read) == {"ended": CLIENTS}
    assert min(size for size, _ in late_read) >= READ_TOKENS * WORD_BYTES
    assert ends == {"READER_TOO_SLOW": CLIENTS}
    assert held_mib <= HELD_MIB_MAX
    assert received_mib <= RECEIVED_MIB_MAX
    assert not beside_sleepers.inferences.failures
    assert unread_calls == before_calls
    assert waiting_tasks <= ENDING_TASKS_MAX * CLIENTS
    assert held_calls == before_calls
    assert not beside_sleepers.wrong
    assert slower <= SLOWER_MAX
    assert generation_slower <= GENERATION_SLOWER_MAX
