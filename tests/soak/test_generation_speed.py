"""What the mesh costs a generation, measured beside the library alone in the same run."""

from __future__ import annotations

import asyncio
import os
import time
from statistics import median
from typing import Any

import grpc
import grpc.aio
import pytest

from headrace.gateway.v1 import generation_pb2 as pb
from headrace.gateway.v1.inference_pb2_grpc import InferenceServiceStub
from headrace_runner.backends.llamacpp.child_process import threads_environment
from support.generation import GREEDY, asking, provide_smollm2
from support.llama_process import Llama, Rate, running_llama
from support.mesh import Mesh
from support.smollm2 import model_file
from support.soak import Measured

SLOTS = 8
TOKENS = 64
RATE_ROUNDS = 9
RATE_MIN = 0.9
FIRST_TOKEN_ROUNDS = 40
ADDED_MS_MAX = 10.0

pytestmark = [pytest.mark.timeout(400), pytest.mark.parametrize("mesh", [("--runners", "1")], indirect=True)]


def prompt(round_: int, number: int) -> str:
    """A prompt that nobody has computed before; all have as many tokens but for one or two."""
    return f"Write a story about the numbers {round_} and {number}."


def body(text: str) -> dict[str, Any]:
    """The request as the library takes it."""
    return {"prompt": text, "max_tokens": TOKENS, "ignore_eos": True, **GREEDY}


def bodies(round_: int) -> list[dict[str, Any]]:
    """Those of a round."""
    return [body(prompt(round_, number)) for number in range(SLOTS)]


async def rate_of(stub: Any, mesh: Mesh, round_: int) -> Rate:
    """Tokens and seconds of as many generations at the same time as there are slots."""

    async def one(number: int) -> int:
        request = asking(prompt(round_, number), max_tokens=TOKENS, ignore_end=True)
        usage: pb.GenerationUsage | None = None
        async for message in stub.Generate(request, metadata=mesh.metadata, timeout=120):
            if message.HasField("usage"):
                usage = message.usage
        assert usage is not None
        return usage.completion_tokens

    started = time.perf_counter()
    tokens = await asyncio.gather(*(one(number) for number in range(SLOTS)))
    return Rate(sum(tokens), time.perf_counter() - started)


async def test_eight_generations_are_as_fast_as_the_library_alone(mesh: Mesh, measured: Measured) -> None:
    await asyncio.to_thread(provide_smollm2, mesh)
    ours: list[float] = []
    as_it_is: list[float] = []
    as_ours: list[float] = []
    with (
        running_llama(model_file(), slots=SLOTS) as llama,
        running_llama(model_file(), slots=SLOTS, environment=threads_environment(os.cpu_count() or 1)) as likewise,
    ):
        async with grpc.aio.insecure_channel(mesh.grpc) as channel:
            stub = InferenceServiceStub(channel)
            await rate_of(stub, mesh, -1)
            for library in (llama, likewise):
                await asyncio.to_thread(library.rate, bodies(-1), stream=False)
            for round_ in range(RATE_ROUNDS):
                for turn in range(round_, round_ + 3):
                    # Of its own for each, so that nobody finds a prompt computed.
                    prompts = 3 * round_ + turn % 3
                    match turn % 3:
                        case 0:
                            rate = await rate_of(stub, mesh, prompts)
                            assert rate.tokens == SLOTS * TOKENS
                            ours.append(rate.per_s)
                        case 1:
                            as_ours.append(
                                (await asyncio.to_thread(likewise.rate, bodies(prompts), stream=False)).per_s
                            )
                        case _:
                            as_it_is.append((await asyncio.to_thread(llama.rate, bodies(prompts), stream=False)).per_s)
    ratios = [mine / its for mine, its in zip(ours, as_it_is, strict=True)]
    alike = [mine / its for mine, its in zip(ours, as_ours, strict=True)]
    measured(
        f"{SLOTS} parallel generations of SmolLM2, {TOKENS} tokens each, {RATE_ROUNDS} interleaved rounds",
        f"tokens/s ≥ {RATE_MIN}× of xllamacpp's own {SLOTS}-slot rate in-process, not streamed, median of the rounds, "
        "both as it is and with its threads set up as the mesh does",
        f"{median(ours):.0f}/s; the library {median(as_it_is):.0f}/s, set up alike {median(as_ours):.0f}/s; "
        f"{median(ratios):.2f}× ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{median(alike):.2f}× ({min(alike):.2f} to {max(alike):.2f}) of it set up alike",
    )
    assert min(median(ratios), median(alike)) >= RATE_MIN, (ours, as_it_is, as_ours)


async def first_token_s(stub: Any, mesh: Mesh, text: str) -> float:
    """Seconds from the call to its first token; the call is ended there."""
    started = time.perf_counter()
    call = stub.Generate(asking(text, max_tokens=TOKENS, ignore_end=True), metadata=mesh.metadata, timeout=60)
    async for message in call:
        if any(delta.token_ids for delta in message.deltas):
            took = time.perf_counter() - started
            call.cancel()
            return took
    raise AssertionError("no token came")


async def test_the_first_token_comes_as_soon_as_from_the_library_alone(mesh: Mesh, measured: Measured) -> None:
    await asyncio.to_thread(provide_smollm2, mesh)
    ours: list[float] = []
    alone: list[float] = []

    async def through_the_mesh(stub: Any, text: str) -> None:
        ours.append(await first_token_s(stub, mesh, text))

    async def directly(llama: Llama, text: str) -> None:
        alone.append(await asyncio.to_thread(llama.first_token_s, body(text)))

    with running_llama(model_file(), slots=SLOTS) as llama:
        async with grpc.aio.insecure_channel(mesh.grpc) as channel:
            stub = InferenceServiceStub(channel)
            for round_ in range(-2, FIRST_TOKEN_ROUNDS):
                asked = prompt(round_, FIRST_TOKEN_ROUNDS)
                sides = [through_the_mesh(stub, asked), directly(llama, asked)]
                for side in sides if round_ % 2 else reversed(sides):
                    await side
                    # What ends with a cancel is over within a token.
                    await asyncio.sleep(0.05)
    added_ms = [1000 * (mine - its) for mine, its in zip(ours[2:], alone[2:], strict=True)]
    measured(
        f"time to the first token at no load, {FIRST_TOKEN_ROUNDS} interleaved rounds",
        f"gateway and runner add ≤ {ADDED_MS_MAX:.0f} ms in the median",
        f"{1000 * median(ours[2:]):.1f} ms, the library alone {1000 * median(alone[2:]):.1f} ms: "
        f"{median(added_ms):+.1f} ms",
    )
    assert median(added_ms) <= ADDED_MS_MAX
