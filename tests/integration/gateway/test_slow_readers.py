"""Clients that ask and never read: what the gateway keeps for them is bounded, and nobody else waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from headrace.gateway.v1 import inference_pb2, inference_pb2_grpc
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc
from support import onnx_models
from support.eventually import eventually
from support.gateway import COMMUNITY, Backends, FrontDoor, fresh_name, open_door, upload
from support.scripted_runner import ScriptedRunner, scripted_runner

ANSWER = oip.ModelInferResponse(raw_output_contents=[bytes(200 << 10)]).SerializeToString()
# Answers that a stream may keep (1 MiB), what is in a frame and in gRPC's windows (16 MiB) in both directions.
UNREAD_BYTES_MAX = 64 << 20
REQUESTS = 2_000

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Front:
    """A gateway with a model whose every answer is large."""

    door: FrontDoor
    model: str
    runner: ScriptedRunner

    def in_flight(self) -> float:
        """Calls that the gateway has not ended, and calls' bytes that it holds."""
        value = self.door.metrics.registry.get_sample_value
        labels = {"tenant": "community", "model": self.model, "version": "1"}
        return (value("headrace_infer_in_flight", labels) or 0) + (value("headrace_mesh_calls_open") or 0)


@pytest_asyncio.fixture(loop_scope="module")
async def front(backends: Backends) -> AsyncIterator[Front]:
    async with open_door(backends) as door:
        model = fresh_name()
        await upload(door, model, onnx_models.identity())
        await eventually(lambda: bool(door.gateway.catalog.versions_of("community", model)))
        async with scripted_runner(door.gateway.mesh_address, name="runner") as runner:
            yield Front(door, model, runner)


async def answer_all(front: Front, answered: list[int]) -> None:
    """Answers every call at once with much more than was asked with."""
    while True:
        await front.runner.answer(await front.runner.calls.get(), ANSWER)
        answered.append(len(ANSWER))


def triton(front: Front, channel: grpc.aio.Channel) -> tuple[Any, Callable[[int], Any]]:
    """A `ModelStreamInfer` stream, and its requests."""
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    return stub.ModelStreamInfer(metadata=COMMUNITY, timeout=60), lambda number: oip.ModelInferRequest(
        model_name=front.model, id=str(number)
    )


def packed(front: Front, channel: grpc.aio.Channel) -> tuple[Any, Callable[[int], Any]]:
    """An `InferenceService.Stream`, and its requests of one call each."""
    stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)

    def request(number: int) -> inference_pb2.StreamRequest:
        infer = inference_pb2.InferRequest(request=oip.ModelInferRequest(model_name=front.model))
        return inference_pb2.StreamRequest(calls=[inference_pb2.StreamCall(id=number, infer=infer)])

    return stub.Stream(metadata=COMMUNITY, timeout=60), request


@pytest.mark.parametrize("opened", [triton, packed])
async def test_a_reader_that_never_reads_is_bounded_and_delays_nobody(
    front: Front, opened: Callable[[Front, grpc.aio.Channel], tuple[Any, Callable[[int], Any]]]
) -> None:
    answered: list[int] = []
    answering = asyncio.create_task(answer_all(front, answered))
    other: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(front.door.channel)
    await other.ModelInfer(oip.ModelInferRequest(model_name=front.model), metadata=COMMUNITY, timeout=60)
    answered.clear()
    async with grpc.aio.insecure_channel(front.door.gateway.public_address) as channel:
        stream, request = opened(front, channel)

        async def ask() -> None:
            for number in range(1, REQUESTS + 1):
                await stream.write(request(number))

        asking = asyncio.create_task(ask())
        await until_settled(lambda: (len(answered), asking.done()))
        # Beyond what may wait, answers are dropped and calls answered as RESOURCE_EXHAUSTED, which are small.
        assert front.in_flight() * len(ANSWER) <= UNREAD_BYTES_MAX
        took_s: list[float] = []
        for _ in range(5):
            started = time.monotonic()
            infer = oip.ModelInferRequest(model_name=front.model)
            answer = await other.ModelInfer(infer, metadata=COMMUNITY, timeout=30)
            assert len(answer.raw_output_contents[0]) == 200 << 10
            took_s.append(time.monotonic() - started)
        assert min(took_s) < 1.0, "the best of some: a busy machine may delay one of them itself"
        asking.cancel()
        stream.cancel()
    await eventually(lambda: front.in_flight() == 0)
    answering.cancel()


async def until_settled(progress: Callable[[], Any]) -> None:
    """Returns once nothing moves any more for 35 turns of the loop, which stand still with the process."""
    before, quiet = progress(), 0
    async with asyncio.timeout(60):
        while quiet < 35:
            await asyncio.sleep(0.02)
            now = progress()
            before, quiet = now, quiet + 1 if now == before else 0
