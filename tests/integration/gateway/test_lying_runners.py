"""Runners that break the protocol in front of a real gateway: they lose their session, callers lose nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.gateway.v1 import mesh_pb2_grpc
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.lanes import Chunk, encode_chunk
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc
from support import onnx_models
from support.eventually import eventually
from support.gateway import COMMUNITY, Backends, FrontDoor, fresh_name, open_door, upload
from support.scripted_runner import EXCHANGE, ScriptedRunner, result_for, scripted_runner

CHUNKS = mesh_pb2.ResultFrame.CHUNKS_FIELD_NUMBER
TRUE, FALSE = (oip.ModelInferResponse(id=text).SerializeToString() for text in ("true", "false"))
LARGE_BYTES = 300 << 10

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Front:
    """A gateway with a model that whatever runner joins says to have."""

    door: FrontDoor
    model: str

    async def infer(self) -> str:
        """The answer's id."""
        stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(self.door.channel)
        return (await stub.ModelInfer(oip.ModelInferRequest(model_name=self.model), metadata=COMMUNITY, timeout=60)).id

    async def until_joined(self, *names: str) -> None:
        """Returns once exactly these runners have a session."""
        mesh: Any = mesh_pb2_grpc.MeshServiceStub(self.door.channel)
        async with asyncio.timeout(30):
            while True:
                listed = await mesh.ListRunners(gateway_pb2.ListRunnersRequest(), metadata=COMMUNITY, timeout=30)
                if sorted(runner.name for runner in listed.runners) == sorted(names):
                    return
                await asyncio.sleep(0.02)

    @property
    def address(self) -> str:
        return self.door.gateway.mesh_address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(backends: Backends) -> AsyncIterator[Front]:
    async with open_door(backends) as door:
        model = fresh_name()
        await upload(door, model, onnx_models.identity())
        await eventually(lambda: bool(door.gateway.catalog.versions_of("community", model)))
        yield Front(door, model)


async def answers_what_nobody_asked(liar: ScriptedRunner, call: mesh_pb2.Call) -> None:
    await liar.send(mesh_pb2.ResultFrame(results=[mesh_pb2.Result(id=call.id + 7, terminal=True, payload=FALSE)]))


async def answers_another_attempt(liar: ScriptedRunner, call: mesh_pb2.Call) -> None:
    result = result_for(call, FALSE)
    result.attempt += 1
    await liar.send(mesh_pb2.ResultFrame(results=[result]))


async def answers_without_an_end(liar: ScriptedRunner, call: mesh_pb2.Call) -> None:
    result = result_for(call, FALSE)
    result.terminal = False
    await liar.send(mesh_pb2.ResultFrame(results=[result]))


async def offers_more_than_a_message_may_have(liar: ScriptedRunner, call: mesh_pb2.Call) -> None:
    result = result_for(call)
    result.payload_bytes = 1 << 40
    await liar.send(mesh_pb2.ResultFrame(offers=[result]))


async def offers_what_nobody_asked(liar: ScriptedRunner, call: mesh_pb2.Call) -> None:
    offer = mesh_pb2.Result(id=call.id + 7, terminal=True, payload_bytes=LARGE_BYTES)
    await liar.send(mesh_pb2.ResultFrame(offers=[offer]))


async def sends_chunks_of_nothing(liar: ScriptedRunner, call: mesh_pb2.Call) -> None:
    await liar.send(encode_chunk(CHUNKS, Chunk(call.id, memoryview(FALSE), True)), lane="bulk")


async def sends_more_than_it_offered(liar: ScriptedRunner, call: mesh_pb2.Call) -> None:
    result = result_for(call)
    result.payload_bytes = LARGE_BYTES
    await liar.send(mesh_pb2.ResultFrame(offers=[result]))
    await liar.accepted(call)
    await liar.send(encode_chunk(CHUNKS, Chunk(call.id, memoryview(bytes(LARGE_BYTES + 1)), True)), lane="bulk")


async def sends_less_than_it_offered(liar: ScriptedRunner, call: mesh_pb2.Call) -> None:
    result = result_for(call)
    result.payload_bytes = LARGE_BYTES
    await liar.send(mesh_pb2.ResultFrame(offers=[result]))
    await liar.accepted(call)
    await liar.send(encode_chunk(CHUNKS, Chunk(call.id, memoryview(bytes(LARGE_BYTES - 1)), True)), lane="bulk")


async def sends_too_much_at_once(liar: ScriptedRunner, call: mesh_pb2.Call) -> None:
    await liar.send(mesh_pb2.ResultFrame(results=[result_for(call, bytes(LARGE_BYTES))]))


async def sends_noise(liar: ScriptedRunner, _call: mesh_pb2.Call) -> None:
    await liar.send(b"\xff" * 100)


async def sends_noise_in_bulk(liar: ScriptedRunner, _call: mesh_pb2.Call) -> None:
    await liar.send(b"\xff" * 100, lane="bulk")


Lie = Callable[[ScriptedRunner, mesh_pb2.Call], Awaitable[None]]


@pytest.mark.parametrize(
    "lie",
    [
        answers_what_nobody_asked,
        answers_another_attempt,
        answers_without_an_end,
        offers_more_than_a_message_may_have,
        offers_what_nobody_asked,
        sends_chunks_of_nothing,
        sends_more_than_it_offered,
        sends_less_than_it_offered,
        sends_too_much_at_once,
        sends_noise,
        sends_noise_in_bulk,
    ],
)
async def test_a_lie_ends_the_session_and_the_call_is_answered_by_another_runner(front: Front, lie: Lie) -> None:
    async with scripted_runner(front.address, name="liar") as liar:
        await front.until_joined("liar")
        asked = asyncio.create_task(front.infer())
        call = await liar.next_call()
        async with scripted_runner(front.address, name="honest") as honest:
            await front.until_joined("honest", "liar")
            await lie(liar, call)
            await asyncio.wait_for(liar.over.wait(), 30)
            await front.until_joined("honest")
            again = await honest.next_call()
            assert again.attempt == call.attempt + 1
            await honest.answer(again, TRUE)
            assert await asked == "true"
    await front.until_joined()


async def test_a_second_answer_reaches_nobody_and_ends_the_session(front: Front) -> None:
    async with scripted_runner(front.address, name="liar") as liar:
        await front.until_joined("liar")
        asked = asyncio.create_task(front.infer())
        call = await liar.next_call()
        await liar.answer(call, TRUE)
        assert await asked == "true"
        asked = asyncio.create_task(front.infer())
        await liar.next_call()
        await liar.answer(call, FALSE)
        await asyncio.wait_for(liar.over.wait(), 30)
        async with scripted_runner(front.address, name="honest") as honest:
            again = await honest.next_call()
            assert again.attempt == 1
            await honest.answer(again, TRUE)
            assert await asked == "true"
    await front.until_joined()


async def test_two_answers_in_one_frame_are_one_answer_and_one_lie(front: Front) -> None:
    async with scripted_runner(front.address, name="liar") as liar:
        await front.until_joined("liar")
        asked = asyncio.create_task(front.infer())
        call = await liar.next_call()
        await liar.send(mesh_pb2.ResultFrame(results=[result_for(call, TRUE), result_for(call, FALSE)]))
        assert await asked == "true"
        await asyncio.wait_for(liar.over.wait(), 30)
    await front.until_joined()


async def test_a_runner_cannot_answer_in_anothers_session(front: Front) -> None:
    async with scripted_runner(front.address, name="honest") as honest:
        await front.until_joined("honest")
        asked = asyncio.create_task(front.infer())
        call = await honest.next_call()
        async with scripted_runner(front.address, name="liar") as liar:
            await front.until_joined("honest", "liar")
            # The same id, which belongs to the other session.
            await liar.answer(call, FALSE)
            await asyncio.wait_for(liar.over.wait(), 30)
        await front.until_joined("honest")
        await honest.answer(call, TRUE)
        assert await asked == "true"
    await front.until_joined()


@pytest.mark.parametrize("lane", ["small", "bulk", "third", ""])
async def test_a_lane_joins_a_session_once_and_only_with_its_token(front: Front, lane: str) -> None:
    async with scripted_runner(front.address, name="honest") as honest:
        await front.until_joined("honest")
        async with grpc.aio.insecure_channel(front.address) as channel:
            for token in (honest.token, honest.token[:-1], ""):
                metadata = (("x-headrace-session", token), ("x-headrace-lane", lane))
                intruder: Any = channel.stream_stream(EXCHANGE)(metadata=metadata)
                assert await intruder.code() != grpc.StatusCode.OK
        asked = asyncio.create_task(front.infer())
        call = await honest.next_call()
        await honest.answer(call, TRUE)
        assert await asked == "true"
    await front.until_joined()
