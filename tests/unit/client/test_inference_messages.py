"""Requests as messages, answers as results, and what is refused before anything is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict

from headrace_client import InferRequest, Tensor
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import TensorError, ValidationError
from headrace_client.inference import checked_traceparent, decode_response, encode_request
from headrace_client.private_pool import POOL
from headrace_client.timeouts import checked_timeout_s

X = {"x": np.zeros(1, np.float32)}


def test_every_field_of_a_request_reaches_the_message() -> None:
    request = InferRequest(
        "m",
        {"x": np.array([[1, 2]], np.float32), "t": ["a"]},
        version=3,
        outputs=["z", "y"],
        parameters={"flag": True, "count": -1, "big": 1 << 63, "share": 0.5, "word": "w"},
        priority=0,
        request_id="r-1",
    )
    assert MessageToDict(encode_request(request), descriptor_pool=POOL) == {
        "priority": 0,
        "request": {
            "modelName": "m",
            "modelVersion": "3",
            "id": "r-1",
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": ["1", "2"]},
                {"name": "t", "datatype": "BYTES", "shape": ["1"]},
            ],
            "outputs": [{"name": "z"}, {"name": "y"}],
            "parameters": {
                "flag": {"boolParam": True},
                "count": {"int64Param": "-1"},
                "big": {"uint64Param": str(1 << 63)},
                "share": {"doubleParam": 0.5},
                "word": {"stringParam": "w"},
            },
            "rawInputContents": ["AACAPwAAAEA=", "AQAAAGE="],
        },
    }


def test_what_is_not_said_is_left_out() -> None:
    message = encode_request(InferRequest("m", X, version=0))
    assert not message.HasField("priority")
    assert (message.request.model_version, message.request.id, list(message.request.outputs)) == ("", "", [])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": ""}, "model"),
        ({"version": -1}, "version"),
        ({"version": 1.5}, "version"),
        ({"version": True}, "version"),
        ({"outputs": "z"}, "outputs"),
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
        ({"parameters": {"p": None}}, "p"),
        ({"parameters": {"p": 1 << 64}}, "p"),
        ({"parameters": {"p": -(1 << 63) - 1}}, "p"),
        ({"request_id": "é"}, "request_id"),
        ({"request_id": "a\nb"}, "request_id"),
        ({"request_id": "a" * 129}, "request_id"),
        ({"request_id": 7}, "request_id"),
        ({"model": 123}, "model"),
        ({"inputs": {1: X["x"]}}, "inputs"),
        ({"inputs": [1]}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"outputs": [1]}, "outputs"),
        ({"outputs": 1}, "outputs"),
        ({"parameters": {1: 1}}, "parameters"),
        ({"parameters": [1]}, "parameters"),
        ({"priority": "high"}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": True}, "priority"),
    ],
    ids=str,
)
def test_a_field_that_cant_be_right_is_named(fields: dict[str, Any], field: str) -> None:
    given = {"model": "m", "inputs": X, **fields}
    with pytest.raises(ValidationError) as caught:
        encode_request(InferRequest(given.pop("model"), given.pop("inputs"), **given))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "\ud800"},
        {"inputs": {"\ud800": X["x"]}},
        {"outputs": ["\ud800"]},
        {"parameters": {"\ud800": 1}},
        {"parameters": {"p": "\ud800"}},
        {"request_id": "\ud800"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_texts_that_are_no_utf_8_are_refused(fields: dict[str, Any]) -> None:
    given = {"model": "m", "inputs": X, **fields}
    with pytest.raises(ValidationError):
        encode_request(InferRequest(given.pop("model"), given.pop("inputs"), **given))


@pytest.mark.parametrize("traceparent", ["x", 7, None, f"00-{'1' * 32}-{'2' * 16}", f"00-{'1' * 32}-{'2' * 16}-01\n"])
def test_a_trace_context_has_w3cs_form(traceparent: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        checked_traceparent(traceparent)
    assert caught.value.field == "traceparent"


def test_an_answer_becomes_arrays_with_names_and_times() -> None:
    message = inference_pb2.InferResponse()
    response = message.response
    response.model_name, response.model_version, response.id = "m", "7", "r-1"
    response.outputs.add(name="z", datatype="INT8", shape=[2])
    response.outputs.add(name="y", datatype="BYTES", shape=[1])
    response.raw_output_contents.extend([b"\1\2", b"\1\0\0\0a"])
    response.parameters["final"].bool_param = True
    response.parameters["unset"].CopyFrom(open_inference_pb2.InferParameter())
    message.execution.runner, message.execution.backend, message.execution.device_type = "runner-0", "onnx", "cpu"
    message.execution.queue_time.FromMilliseconds(1)
    message.execution.compute_time.FromMicroseconds(1_500_000)
    result = decode_response(message)
    assert (result.model, result.version, result.id, result.parameters) == (
        "m",
        "7",
        "r-1",
        {"final": True, "unset": ""},
    )
    assert (result["z"].tolist(), result["y"].tolist()) == ([1, 2], [b"a"])
    assert (list(result.outputs), dict(result.datatypes)) == (["z", "y"], {"z": "INT8", "y": "BYTES"})
    execution = result.execution
    assert (execution.runner, execution.queue_s, execution.compute_s) == ("runner-0", 0.001, 1.5)


def test_an_answer_without_raw_bytes_is_an_error_not_a_guess() -> None:
    message = inference_pb2.InferResponse()
    message.response.outputs.add(name="z", datatype="INT8", shape=[0])
    with pytest.raises(TensorError, match="raw bytes"):
        decode_response(message)


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), 0, -1, -0.0, "soon", None])
def test_a_time_limit_is_a_number_above_zero(timeout_s: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        checked_timeout_s(timeout_s)
    assert caught.value.field == "timeout_s"


def test_a_time_limit_is_a_day_at_most() -> None:
    assert [checked_timeout_s(timeout_s) for timeout_s in (86_399, 86_401, 1e20)] == [86_399, 86_400, 86_400]


def test_a_tensor_of_another_type_is_refused_with_its_input() -> None:
    with pytest.raises(TensorError) as caught:
        encode_request(InferRequest("m", {"x": Tensor([0.5], "INT8")}))
    assert caught.value.field == "x"
