"""InferenceService on a gateway with a real runner: batches and packed streams, good and bad."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc.status_pb2 import Status

from headrace.gateway.v1 import inference_pb2 as pb
from headrace.gateway.v1 import inference_pb2_grpc
from headrace_common.rpc_status import from_rpc_error, from_status
from inference import open_inference_pb2 as oip
from support import onnx_models
from support.eventually import eventually
from support.gateway import COMMUNITY, Backends, FrontDoor, Pairs, fresh_name, open_door, upload
from support.mesh_processes import running_runner


def request_for(model: str, nonce: float = 1.0) -> pb.InferRequest:
    tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=(1, 16))
    raw = np.full((1, 16), nonce, np.float32).tobytes()
    return pb.InferRequest(request=oip.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[raw]))


def reason_of(status: Status) -> str:
    return from_status(status).reason


@dataclass
class Front:
    """A gateway with one runner and one loaded model."""

    door: FrontDoor
    stub: Any
    model: str

    def expected(self, nonce: float) -> np.ndarray[Any, Any]:
        return np.full((1, 16), nonce, np.float32) @ onnx_models.tiny_weights(seed=3)

    def check(self, answer: pb.InferResponse, nonce: float) -> None:
        got = np.frombuffer(answer.response.raw_output_contents[0], np.float32).reshape(1, 16)
        np.testing.assert_allclose(got, self.expected(nonce), rtol=1e-5, atol=1e-5)

    def stream(self, metadata: Pairs = COMMUNITY) -> Stream:
        return Stream(self.stub.Stream(metadata=metadata, timeout=30))


class Stream:
    """A raw client of one stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.limits = pb.StreamLimits()
        self.draining = False

    async def send(self, *calls: pb.StreamCall, cancels: tuple[int, ...] = ()) -> None:
        await self.call.write(pb.StreamRequest(calls=calls, cancels=cancels))

    async def answers(self, count: int) -> dict[int, pb.StreamAnswer]:
        """The next so many answers by id; each id comes once."""
        found: dict[int, pb.StreamAnswer] = {}
        while len(found) < count:
            message = await self.call.read()
            assert message is not grpc.aio.EOF, f"the stream ended after {len(found)} of {count} answers"
            if message.HasField("limits"):
                self.limits = message.limits
            self.draining |= message.draining
            for answer in message.answers:
                assert answer.id not in found
                found[answer.id] = answer
        return found

    async def failure(self) -> str:
        """The reason with which the stream ends; answers before that are skipped."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(10):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
                raise AssertionError("the stream ended well")
        return from_rpc_error(caught.value).reason


@pytest.fixture
async def front(backends: Backends, tmp_path: Path) -> AsyncIterator[Front]:
    async with open_front(backends, tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_front(backends: Backends, folder: Path) -> AsyncIterator[Front]:
    async with open_door(backends) as door:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(door.channel)
        name = fresh_name()
        await upload(door, name, onnx_models.tiny(seed=3))
        await eventually(lambda: bool(door.gateway.catalog.versions_of("community", name)))
        with running_runner(backends, door, folder):
            await stub.Infer(request_for(name), metadata=COMMUNITY, timeout=30)
            yield Front(door, stub, name)


def call(call_id: int, request: pb.InferRequest, **fields: Any) -> pb.StreamCall:
    return pb.StreamCall(id=call_id, infer=request, **fields)


async def test_infer_batch_and_stream_answer_alike_and_say_where_it_ran(front: Front) -> None:
    answer = await front.stub.Infer(request_for(front.model, 2.0), metadata=COMMUNITY, timeout=10)
    front.check(answer, 2.0)
    assert (answer.execution.runner, answer.execution.backend) == ("runner-0", "onnxruntime")
    assert answer.execution.device_type == "cpu"
    assert answer.execution.compute_time.ToMicroseconds() > 0

    mixed = pb.InferBatchRequest(
        requests=[request_for(front.model, float(n)) if n % 3 else request_for("absent") for n in range(9)],
        max_concurrency=2,
    )
    results = (await front.stub.InferBatch(mixed, metadata=COMMUNITY, timeout=10)).results
    assert len(results) == 9
    for nonce, result in enumerate(results):
        if nonce % 3:
            front.check(result.response, float(nonce))
        else:
            assert reason_of(result.error) == "MODEL_NOT_FOUND"

    stream = front.stream()
    await stream.send(*(call(n, request_for(front.model, float(n))) for n in range(300)))
    await stream.send(call(1000, request_for(front.model, 7.0)))
    answers = await stream.answers(301)
    for nonce in range(300):
        front.check(answers[nonce].infer, float(nonce))
    assert (stream.limits.calls_max, stream.limits.calls_per_message_max) == (1024, 1024)
    assert stream.limits.default_timeout.ToSeconds() == 30
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() == grpc.StatusCode.OK


async def test_a_stream_that_breaks_the_contract_at_once_ends_with_its_status_each_time(front: Front) -> None:
    """The status must not get lost when it overtakes the stream's first message, so once would prove little."""
    request = request_for(front.model)
    for _ in range(150):
        stream = front.stream()
        await stream.send(call(1, request), call(2, request), call(1, request))
        assert await stream.failure() == "CALL_ID_IN_USE"
