"""What callers can ask of the form of an answer, and how it is then written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_runner.tensors.classification import best_classes
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.elements import to_array
from headrace_runner.tensors.infer_request import (
    PARAMETER_BYTES_MAX,
    InferRequest,
    RequestTensor,
    read_infer_request,
)
from headrace_runner.tensors.infer_response import ResponseWriter
from headrace_runner.tensors.output_form import OutputForm
from headrace_runner.tensors.signature import Signature, TensorSpec
from inference import open_inference_pb2 as pb

SIGNATURE = Signature(
    inputs=[TensorSpec("x", "FP32", (-1,))],
    outputs=[TensorSpec("scores", "FP32", (-1, 3)), TensorSpec("half", "FP16", (-1,)), TensorSpec("text", "BYTES", ())],
)
WRITER = ResponseWriter(model_name="m", model_version="1", labels=["cat", "dog"], batched=True)


def asked(
    parameters: Mapping[str, Any] | None = None, input_: Mapping[str, Any] | None = None, **outputs: Mapping[str, Any]
) -> InferRequest:
    """A request with these parameters, of itself, of its input and of its outputs, read as a runner reads it."""
    request = pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[0])])
    request.inputs[0].contents.SetInParent()
    _fill(request.parameters, parameters or {})
    _fill(request.inputs[0].parameters, input_ or {})
    for name, own in outputs.items():
        _fill(request.outputs.add(name=name).parameters, own)
    return read_infer_request(request.SerializeToString())


def _fill(target: Any, values: Mapping[str, Any]) -> None:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in values.items():
        setattr(target[name], kinds[type(value)], value)


def refused(*args: Any, **outputs: Any) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        SIGNATURE.check(asked(*args, **outputs))
    assert caught.value.entry is catalogue.PARAMETER_INVALID
    return caught.value


def test_without_parameters_a_request_has_no_form_of_its_own() -> None:
    assert asked(scores={}).form is None
    assert asked({"temperature": 1.0}, scores={"colour": "red"}).form is None
    assert asked({"binary_data_output": True}, scores={"binary_data": True}).form is None


def test_typed_outputs_are_asked_for_by_the_request_or_by_every_output() -> None:
    assert asked({"binary_data_output": False}).form == OutputForm(True, {})
    assert asked({"binary_data_output": False}, scores={"binary_data": True}).form is None
    assert asked(scores={"binary_data": False}, text={"binary_data": False}).form == OutputForm(True, {})
    assert asked(scores={"classification": 2}).form == OutputForm(False, {"scores": 2})


@pytest.mark.parametrize(
    ("call", "parameter", "field"),
    [
        (lambda: refused({"binary_data_output": 0}), "binary_data_output", "parameters.binary_data_output"),
        (
            lambda: refused(scores={"binary_data": False}, text={}),
            "binary_data",
            "outputs.binary_data",
        ),
        (lambda: refused(scores={"binary_data": "no"}), "binary_data", "outputs[0].parameters.binary_data"),
        (lambda: refused(scores={"classification": 0}), "classification", "outputs[0].parameters.classification"),
        (lambda: refused(scores={"classification": True}), "classification", "outputs[0].parameters.classification"),
        (lambda: refused(text={"classification": 1}), "classification", "outputs"),
        (lambda: refused(half={"binary_data": False}), "binary_data", "outputs"),
        (lambda: refused({"binary_data_output": False}), "binary_data", "outputs"),
        (lambda: refused({"triton_secret": True}), "triton_secret", "parameters.triton_secret"),
        (
            lambda: refused({"triton_enable_empty_final_response": 1}),
            "triton_enable_empty_final_response",
            "parameters.triton_enable_empty_final_response",
        ),
        (lambda: refused({"sequence_id": 1.5}), "sequence_id", "parameters.sequence_id"),
        (lambda: refused({"sequence_start": 1}), "sequence_start", "parameters.sequence_start"),
        (
            lambda: refused({}, {"shared_memory_region": "r"}),
            "shared_memory_region",
            "inputs[0].parameters.shared_memory_region",
        ),
        (
            lambda: refused(scores={"shared_memory_byte_size": 12}),
            "shared_memory_byte_size",
            "outputs[0].parameters.shared_memory_byte_size",
        ),
    ],
)
def test_what_can_not_be_is_refused_by_name(call: Any, parameter: str, field: str) -> None:
    error = call()
    assert parameter in error.message
    assert (error.context["parameter"], error.field) == (parameter, field)


def test_parameters_are_bounded_together() -> None:
    half = "x" * (PARAMETER_BYTES_MAX // 2)
    assert asked({"note": half}, {"note": "short"}).form is None
    with pytest.raises(HeadraceError) as caught:
        asked({"note": half}, {"note": half})
    assert (caught.value.entry, caught.value.field) == (catalogue.FIELD_TOO_LONG, "parameters")


def test_parameters_of_a_sequence_mean_nothing_to_a_model_without_state() -> None:
    for sequence_id in (7, "seven"):
        request = asked({"sequence_id": sequence_id, "sequence_start": True, "sequence_end": False}, scores={})
        assert request.form is None
        assert SIGNATURE.check(request) == ("scores",)


@given(st.sampled_from(sorted(DATATYPES.keys() - {"FP16", "BF16"})), st.data())
def test_typed_outputs_are_read_back_as_they_were(datatype: str, data: st.DataObject) -> None:
    shape = data.draw(st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    array: Array
    if datatype == "BYTES":
        array = np.empty(shape, dtype=object)
        for index in np.ndindex(*shape):
            array[index] = data.draw(st.binary(max_size=5))
    else:
        array = data.draw(st_numpy.arrays(DATATYPES[datatype].dtype, shape))
    payload = WRITER.write("id", [("y", datatype, array)], OutputForm(True, {}))
    response = pb.ModelInferResponse.FromString(bytes(payload))
    assert (response.id, len(response.raw_output_contents)) == ("id", 0)
    (output,) = response.outputs
    assert (output.name, output.datatype, tuple(output.shape)) == ("y", datatype, array.shape)
    contents = memoryview(output.contents.SerializeToString())
    read = to_array(RequestTensor("y", datatype, array.shape, None, (contents,)))
    np.testing.assert_array_equal(read, array)


def test_long_runs_of_typed_integers_are_written_whole() -> None:
    array = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, size=600_000, dtype=np.int64)
    array[:3] = (0, -1, 127)
    payload = WRITER.write("", [("y", "INT64", array)], OutputForm(True, {}))
    assert list(pb.ModelInferResponse.FromString(bytes(payload)).outputs[0].contents.int64_contents) == array.tolist()


def test_classes_come_best_first_for_each_row_with_their_labels() -> None:
    scores = np.array([[0.25, 0.5, 0.125], [0.5, np.nan, 0.5]], np.float32)
    payload = WRITER.write("", [("scores", "FP32", scores)], OutputForm(False, {"scores": 2}))
    response = pb.ModelInferResponse.FromString(bytes(payload))
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("scores", "BYTES", [2, 2])
    texts = [b"0.500000:1:dog", b"0.250000:0:cat", b"0.500000:0:cat", b"0.500000:2"]
    assert response.raw_output_contents == [b"".join(len(text).to_bytes(4, "little") + text for text in texts)]


def test_classes_can_be_typed() -> None:
    whole = np.array([[3, 9]], np.uint8)
    payload = WRITER.write("", [("scores", "UINT8", whole)], OutputForm(True, {"scores": 5}))
    (output,) = pb.ModelInferResponse.FromString(bytes(payload)).outputs
    assert (list(output.shape), list(output.contents.bytes_contents)) == ([1, 2], [b"9:1:dog", b"3:0:cat"])


@pytest.mark.parametrize(
    ("shape", "batched", "expected"),
    [((), False, (1,)), ((3,), False, (2,)), ((2, 3), False, (2,)), ((0, 3), True, (0, 2)), ((2, 0), True, (2, 0))],
)
def test_classes_have_the_axes_of_triton(shape: tuple[int, ...], batched: bool, expected: tuple[int, ...]) -> None:
    assert best_classes(np.zeros(shape, np.float64), 2, [], batched=batched).shape == expected


def test_large_unsigned_scores_are_told_exactly() -> None:
    scores = np.array([1, 2**64 - 1], np.uint64)
    assert best_classes(scores, 1, [], batched=False).tolist() == [b"18446744073709551615:1"]
