"""Inferences whose answers come as events, and Triton's generate extension, over a mesh that a test speaks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest

from headrace_client import byte_elements
from headrace_common import catalogue
from headrace_common.errors import ModelError
from inference.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelStreamInferResponse,
)
from support.eventually import eventually
from support.http_front import HttpFront, http_front
from support.scripted_mesh import ScriptedMesh, serving

_OPEN = "/inference.GRPCInferenceService/"
KEY = {"x-api-key": "key"}
TALKS = ModelMetadataResponse(
    name="m",
    inputs=[
        ModelMetadataResponse.TensorMetadata(name="text_input", datatype="BYTES", shape=[1]),
        ModelMetadataResponse.TensorMetadata(name="stream", datatype="BOOL", shape=[1]),
        ModelMetadataResponse.TensorMetadata(name="sampling_parameters", datatype="BYTES", shape=[1]),
    ],
)
ADDS = ModelMetadataResponse(
    name="m", inputs=[ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 2])]
)


def part(text: str, *, final: bool = False, **parameters: int) -> ModelStreamInferResponse:
    """A part of a text."""
    response = ModelInferResponse(model_name="m", model_version="4", raw_output_contents=[byte_elements.packed([text])])
    response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    response.parameters["triton_final_response"].bool_param = final
    for name, value in parameters.items():
        response.parameters[name].int64_param = value
    return ModelStreamInferResponse(infer_response=response)


def failing(message: str, reason: str) -> ModelStreamInferResponse:
    """A failure in the place of an answer."""
    response = ModelStreamInferResponse(error_message=message)
    response.infer_response.parameters["headrace_reason"].string_param = reason
    return response


def ran(message: ModelStreamInferResponse) -> ModelStreamInferResponse:
    """The same with what a gateway says of a call's execution to who asks."""
    parameters = message.infer_response.parameters
    for name, text in (("runner", "runner-1"), ("backend", "llamacpp"), ("device_type", "cpu")):
        parameters[f"headrace_{name}"].string_param = text
    for name, microseconds in (("queue", 250), ("compute", 20_000)):
        parameters[f"headrace_{name}_us"].int64_param = microseconds
    return message


TEXT = [part("The"), ran(part(" cat", final=True, completion_tokens=2))]


@dataclass
class Served:
    """A front with a scripted mesh behind it."""

    mesh: ScriptedMesh
    http: HttpFront
    client: httpx.AsyncClient
    requests: list[ModelInferRequest] = field(default_factory=list[ModelInferRequest])

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.client.post(path, json=body, headers=KEY)


@asynccontextmanager
async def served(
    steps: Sequence[ModelStreamInferResponse | Exception | None], metadata: ModelMetadataResponse = TALKS
) -> AsyncGenerator[Served]:
    requests: list[ModelInferRequest] = []

    async def stream(content: bytes) -> AsyncIterator[bytes]:
        requests.append(ModelInferRequest.FromString(content))
        for step in steps:
            if step is None:
                await asyncio.Event().wait()
            elif isinstance(step, Exception):
                raise step
            else:
                yield step.SerializeToString()

    async def describe(_: bytes) -> bytes:
        return metadata.SerializeToString()

    mesh = ScriptedMesh(unary={f"{_OPEN}ModelMetadata": describe}, responses={f"{_OPEN}ModelStreamInfer": stream})
    async with (
        serving(mesh) as address,
        http_front(address) as http,
        httpx.AsyncClient(base_url=http.url, timeout=60) as client,
    ):
        yield Served(mesh, http, client, requests)


def events_of(answer: httpx.Response) -> list[tuple[str, Any]]:
    """Names and data."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    read: list[tuple[str, Any]] = []
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        read.append((fields.get("event", "message"), orjson.loads(fields["data"])))
    return read


def inference(**fields: Any) -> dict[str, Any]:
    tensor = {"shape": [1], "dtype": "STRING", "data": ["Once"]}
    return {"modelId": "m:staging", "inputs": {"text_input": tensor}, **fields}


async def test_outputs_come_as_chunks_and_the_end_is_told() -> None:
    async with served(TEXT) as front:
        answer = await front.post(
            "/v1/infer/stream", inference(parameters={"max_tokens": 2}, priority=9, latencyCritical=True)
        )
        events = events_of(answer)
        (asked,) = front.requests
    assert [name for name, _ in events] == ["chunk", "chunk", "done"]
    assert {data["requestId"] for _, data in events} == {answer.headers["x-request-id"]}
    assert [data["outputs"] for _, data in events[:-1]] == [
        {"text_output": {"shape": [1], "dtype": "BYTES", "data": [text]}} for text in ("The", " cat")
    ]
    done = events[-1][1]
    assert (done["runnerName"], done["deviceType"]) == ("llamacpp-cpu", "cpu")
    ran_at = {"replica": "runner-1", "backend": "llamacpp", "queueMs": 0.25, "computeMs": 20.0}
    assert done["metadata"] == {"model": "m", "version": "4", **ran_at, "parameters": {"completion_tokens": 2}}
    assert front.mesh.calls[0].metadata["headrace-execution"] == "true"
    assert done["latencyMs"] > 0
    assert (asked.model_name, asked.model_version, list(asked.raw_input_contents)) == (
        "m",
        "staging",
        [b"\4\0\0\0Once"],
    )
    parameters = asked.parameters
    assert (parameters["max_tokens"].int64_param, parameters["latency_critical"].bool_param) == (2, True)
    assert parameters["priority"].int64_param == 1, "Triton's most urgent one"


async def test_failures_have_a_status_before_the_first_chunk_and_an_event_after_it() -> None:
    refused = failing("the prompt is too long", "CONTEXT_LENGTH_EXCEEDED")
    for steps in ([refused], [ModelError("the prompt is too long", entry=catalogue.CONTEXT_LENGTH_EXCEEDED)]):
        async with served(steps) as front:
            answer = await front.post("/v1/infer/stream", inference())
        assert (answer.status_code, answer.json()["errorCode"]) == (400, "CONTEXT_LENGTH_EXCEEDED")
    async with served([*TEXT[:1], failing("gone", "GENERATION_INTERRUPTED")]) as front:
        events = events_of(await front.post("/v1/infer/stream", inference()))
    assert [name for name, _ in events] == ["chunk", "error"]
    assert (events[1][1]["errorCode"], events[1][1]["httpStatus"], events[1][1]["message"]) == (
        "GENERATION_INTERRUPTED",
        500,
        "gone",
    )


async def test_bad_streams_never_reach_the_mesh() -> None:
    async with served(TEXT) as front:
        for body in (
            {},
            {"modelId": "m"},
            {"modelId": "m:", "inputs": {}},
            {"modelId": "m", "inputs": {"x": {"dtype": "FP99", "data": [1]}}},
            {"modelId": "m", "inputs": {}, "streem": True},
        ):
            answer = await front.post("/v1/infer/stream", body)
            assert (answer.status_code, bool(answer.json()["errorCode"])) == (400, True), body
        answer = await front.client.post("/v1/infer/stream", content=b"{}", headers={"content-type": "text/plain"})
        assert answer.status_code == 415
        assert not front.requests


async def test_who_leaves_a_stream_cancels_its_call() -> None:
    async with served([*TEXT[:1], None]) as front:
        async with front.client.stream("POST", "/v1/infer/stream", json=inference(), headers=KEY) as answer:
            assert await anext(answer.aiter_lines()) == "event: chunk"
        await eventually(lambda: front.mesh.cancelled == 1 and front.http.front.streams.open == 0)


async def test_generate_answers_at_once() -> None:
    body = {
        "id": "mine",
        "text_input": "Once",
        "sampling_parameters": {"stop": ["."]},
        "parameters": {"max_tokens": 2, "temperature": 0.5},
    }
    async with served([ran(part("The cat", final=True, completion_tokens=2))]) as front:
        answer = await front.post("/v2/models/m/generate", body)
        versioned = await front.post("/v2/models/m/versions/4/generate", body)
        asked, other = front.requests
    assert (
        answer.json()
        == versioned.json()
        == {
            "model_name": "m",
            "model_version": "4",
            "completion_tokens": 2,
            "text_output": "The cat",
        }
    )
    assert (asked.model_version, other.model_version, asked.id) == ("", "4", "mine")
    inputs = {tensor.name: raw for tensor, raw in zip(asked.inputs, asked.raw_input_contents, strict=True)}
    assert inputs == {
        "text_input": b"\4\0\0\0Once",
        "stream": b"\0",
        "sampling_parameters": byte_elements.packed(['{"stop":["."]}']),
    }
    assert set(asked.parameters) == {"max_tokens", "temperature"}


async def test_generate_stream_answers_in_events() -> None:
    async with served([*TEXT[:1], failing("gone", "GENERATION_INTERRUPTED")]) as front:
        answer = await front.post("/v2/models/m/generate_stream", {"text_input": "Once"})
        assert front.requests[0].raw_input_contents[1] == b"\1"
        whole = await front.post("/v2/models/m/generate", {"text_input": "Once", "parameters": {"stream": True}})
    assert events_of(answer) == [
        ("message", {"model_name": "m", "model_version": "4", "text_output": "The"}),
        ("message", {"error": "gone"}),
    ]
    assert (whole.status_code, "generate_stream" in whole.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "shape"),
    [({"x": [1, 2]}, [1, 2]), ({"x": [[1, 2], [3, 4]]}, [2, 2]), ({"parameters": {"x": [1, 2]}}, [1, 2])],
)
async def test_tensors_of_any_model_may_be_members(body: Any, shape: list[int]) -> None:
    response = ModelInferResponse(model_name="m", model_version="1", raw_output_contents=[b"\0\0\x80?\0\0\0@", b"\1"])
    response.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    response.outputs.add(name="z", datatype="BOOL", shape=[1])
    response.parameters["triton_final_response"].bool_param = True
    async with served([ModelStreamInferResponse(infer_response=response)], ADDS) as front:
        answer = await front.post("/v2/models/m/generate", body)
        assert list(front.requests[0].inputs[0].shape) == shape
    assert answer.json() == {"model_name": "m", "model_version": "1", "y": [1.0, 2.0], "z": True}


async def test_bad_members_never_reach_the_model() -> None:
    async with served(TEXT, ADDS) as front:
        for body in (
            [],
            {"x": [[[1]]]},
            {"x": "text"},
            {"x": None},
            {"x": {}},
            {"x": [1, [2]]},
            {"x": [1e40]},
            {"parameters": 5},
            {"parameters": {"stop": ["a"]}},
            {"id": 5},
        ):
            for path in ("generate", "generate_stream"):
                answer = await front.post(f"/v2/models/m/{path}", body)
                assert (answer.status_code, list(answer.json())) == (400, ["error"]), (body, answer.text)
        assert not front.requests
