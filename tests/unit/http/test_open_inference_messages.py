"""Bodies of Open Inference REST: JSON and binary tensors, and everything that a body can be instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.datatypes import DTYPES
from headrace_client.errors import HeadraceError, InternalError, TensorError, ValidationError
from headrace_gateway.http.open_inference_answer import write_answer
from headrace_gateway.http.open_inference_request import AnswerForm, read_request

TENSOR = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
JSON = AnswerForm(binary=False, by_output={})


def read(body: bytes, json_length: str | None = None) -> tuple[inference_pb2.InferRequest, AnswerForm]:
    return read_request(body, json_length=json_length, model_name="m", model_version="3")


def body_of(document: dict[str, Any], *parts: bytes) -> tuple[bytes, str | None]:
    text = orjson.dumps(document)
    return b"".join((text, *parts)), str(len(text)) if parts else None


def answer(*outputs: tuple[str, str, list[int], bytes]) -> open_inference_pb2.ModelInferResponse:
    response = open_inference_pb2.ModelInferResponse(model_name="m", model_version="3")
    for name, datatype, shape, raw in outputs:
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw)
    return response


@given(st.lists(st.tuples(st.sampled_from([*DTYPES, "BF16"]), st.integers(0, 5), st.booleans()), max_size=6))
def test_json_and_binary_tensors_mix_in_any_order(tensors: list[tuple[str, int, bool]]) -> None:
    inputs: list[dict[str, Any]] = []
    raws: list[bytes] = []
    behind: list[bytes] = []
    for index, (datatype, size, binary) in enumerate(tensors):
        raw = np.arange(size).astype(DTYPES.get(datatype, "<u2")).tobytes()
        entry: dict[str, Any] = {"name": f"x{index}", "datatype": datatype, "shape": [size]}
        if binary:
            entry["parameters"] = {"binary_data_size": len(raw)}
            behind.append(raw)
        elif datatype in ("BF16", "BOOL"):
            raw = bytes(len(raw))
            entry["data"] = [False if datatype == "BOOL" else 0] * size
        else:
            entry["data"] = list(range(size))
        inputs.append(entry)
        raws.append(raw)
    body, length = body_of({"inputs": inputs}, *behind)
    request = read(body, length)[0].request
    assert (request.model_name, request.model_version) == ("m", "3")
    assert [(tensor.name, tensor.datatype, [*tensor.shape]) for tensor in request.inputs] == [
        (entry["name"], entry["datatype"], entry["shape"]) for entry in inputs
    ]
    assert [*request.raw_input_contents] == raws
    assert not any(tensor.parameters for tensor in request.inputs)


def test_every_field_reaches_the_message_and_the_form_stays_here() -> None:
    body, _ = body_of(
        {
            "id": "r-1",
            "parameters": {
                "sequence_id": 7,
                "sequence_start": True,
                "share": 0.5,
                "w": "é",
                "binary_data_output": True,
            },
            "inputs": [{**TENSOR, "parameters": {"own": 1}}],
            "outputs": [
                {"name": "y", "parameters": {"binary_data": False, "classification": 3}},
                {"name": "z"},
            ],
            "unknown": {},
        }
    )
    message, form = read(body)
    request = message.request
    assert request.id == "r-1"
    assert {name: value.WhichOneof("parameter_choice") for name, value in request.parameters.items()} == {
        "sequence_id": "int64_param",
        "sequence_start": "bool_param",
        "share": "double_param",
        "w": "string_param",
    }
    assert dict(request.inputs[0].parameters)["own"].int64_param == 1
    assert [(output.name, dict(output.parameters).keys()) for output in request.outputs] == [
        ("y", {"classification"}),
        ("z", set()),
    ]
    assert (form.is_binary("y"), form.is_binary("z")) == (False, True)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], None),
        ({}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": [1]}, "inputs[0]"),
        ({"inputs": [TENSOR] * 1025}, "inputs"),
        ({"inputs": [TENSOR, {**TENSOR, "name": ""}]}, "inputs[1].name"),
        ({"inputs": [{**TENSOR, "name": 1}]}, "inputs[0].name"),
        ({"inputs": [{**TENSOR, "datatype": "FP8"}]}, "inputs[0].datatype"),
        ({"inputs": [{**TENSOR, "shape": None}]}, "inputs[0].shape"),
        ({"inputs": [{**TENSOR, "shape": [2]}]}, "inputs[0].data"),
        ({"inputs": [{**TENSOR, "data": None}]}, "inputs[0].data"),
        ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 4}}]}, "inputs[0].data"),
        ({"inputs": [{**TENSOR, "parameters": []}]}, "inputs[0].parameters"),
        ({"inputs": [{**TENSOR, "parameters": {"p": None}}]}, "inputs[0].parameters.p"),
        ({"inputs": [TENSOR], "parameters": {"p": [1] * 100_000}}, "parameters.p"),
        ({"inputs": [TENSOR], "parameters": {"p": -(1 << 63)} | {str(n): 1 for n in range(1024)}}, "parameters"),
        ({"inputs": [TENSOR], "parameters": {"binary_data_output": 1}}, "parameters.binary_data_output"),
        ({"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"binary_data": "no"}}]},
         "outputs[0].parameters.binary_data"),
        ({"inputs": [TENSOR], "outputs": [{}]}, "outputs[0].name"),
        ({"inputs": [TENSOR], "outputs": [{"name": "y"}] * 1025}, "outputs"),
        ({"inputs": [TENSOR], "id": 7}, "id"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_field(document: Any, field: str | None) -> None:
    with pytest.raises(HeadraceError) as caught:
        read(orjson.dumps(document))
    assert (caught.value.field, caught.value.grpc_code.name) == (field, "INVALID_ARGUMENT")
    assert len(caught.value.message) < 500


def test_the_length_of_the_json_is_checked_against_the_body() -> None:
    body, _ = body_of({"inputs": [TENSOR]})
    assert read(body, f" {len(body)} ")[0] == read(body)[0]
    for wrong in ("", "-1", "0", "1.0", "x", "²", str(len(body) + 1), "9" * 5000, "+1"):
        with pytest.raises(ValidationError) as caught:
            read(body, wrong)
        assert caught.value.field == "Inference-Header-Content-Length"


@pytest.mark.parametrize(
    ("size", "behind", "field"),
    [
        (5, b"1234", "inputs[0].parameters.binary_data_size"),
        (-1, b"1234", "inputs[0].parameters.binary_data_size"),
        (True, b"1234", "inputs[0].parameters.binary_data_size"),
        (4.0, b"1234", "inputs[0].parameters.binary_data_size"),
        ("4", b"1234", "inputs[0].parameters.binary_data_size"),
        (4, b"12345", "inputs"),
        (8, b"12345678", "inputs[0].data"),
    ],
)
def test_binary_sizes_add_up(size: Any, behind: bytes, field: str) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}}
    body, length = body_of({"inputs": [tensor]}, behind)
    with pytest.raises(TensorError) as caught:
        read(body, length)
    assert (caught.value.field, caught.value.reason) == (field, "TENSOR_BYTES_MISMATCH")
    with pytest.raises(TensorError):
        read(orjson.dumps({"inputs": [tensor]}))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"inputs": [' + b"[" * 5000, b'"\\ud800"', b"1e999"])
def test_what_is_no_json_is_malformed(text: bytes) -> None:
    with pytest.raises(ValidationError) as caught:
        read(text)
    assert caught.value.reason == "REQUEST_MALFORMED"


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_json_lacks_are_refused_with_a_way_out(literal: bytes) -> None:
    with pytest.raises(ValidationError, match="write them as texts"):
        read(b'{"inputs": [{"data": [' + literal + b"]}]}")


@given(st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=4), st.integers(-1, 70).map(str)))
def test_any_bytes_are_a_request_or_refused(noise: bytes, length: str | None) -> None:
    for body in (noise, b'{"inputs": []}' + noise):
        try:
            message, _ = read(body, length)
        except HeadraceError as error:
            assert error.grpc_code.name == "INVALID_ARGUMENT"
        else:
            assert not message.request.inputs


def test_answers_have_each_output_where_it_was_asked_for() -> None:
    response = answer(
        ("y", "INT16", [2, 1], b"\1\0\2\0"), ("t", "BYTES", [1], b"\2\0\0\0\xff\xfe"), ("e", "FP32", [0, 3], b"")
    )
    response.id = "r-1"
    response.parameters["p"].string_param = "v"
    response.outputs[0].parameters["q"].bool_param = True
    body, length = write_answer(response, AnswerForm(binary=True, by_output={"y": False}))
    assert length is not None
    assert orjson.loads(body[:length]) == {
        "model_name": "m",
        "model_version": "3",
        "id": "r-1",
        "parameters": {"p": "v"},
        "outputs": [
            {"name": "y", "datatype": "INT16", "shape": [2, 1], "data": [1, 2], "parameters": {"q": True}},
            {"name": "t", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}},
            {"name": "e", "datatype": "FP32", "shape": [0, 3], "parameters": {"binary_data_size": 0}},
        ],
    }
    assert body[length:] == b"\2\0\0\0\xff\xfe"


def test_answers_in_json_have_no_length_and_hold_texts_only() -> None:
    body, length = write_answer(answer(("t", "BYTES", [1], b"\1\0\0\0a")), JSON)
    assert (length, orjson.loads(body)["outputs"][0]["data"]) == (None, ["a"])
    with pytest.raises(TensorError, match=r"tensor 't': .* ask for base64 or binary"):
        write_answer(answer(("t", "BYTES", [1], b"\1\0\0\0\xff")), JSON)
    response = answer(("t", "FP32", [1], bytes(4)))
    del response.raw_output_contents[:]
    with pytest.raises(InternalError):
        write_answer(response, JSON)
