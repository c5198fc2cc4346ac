"""Reading a ModelInferRequest, compared with what the generated classes read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_common import catalogue, wire
from headrace_common.errors import HeadraceError
from headrace_runner.tensors.datatypes import DATATYPES
from headrace_runner.tensors.elements import to_array
from headrace_runner.tensors.infer_request import RANK_MAX, TENSORS_MAX, RequestTensor, read_infer_request
from headrace_runner.tensors.parameters import read_parameters
from inference import open_inference_pb2 as pb

TEXT = st.text(max_size=12)
INT64 = st.integers(-(2**63), 2**63 - 1)
SHAPES = st.lists(st.one_of(st.integers(-3, 300), INT64), max_size=5)
PARAMETERS = st.dictionaries(
    TEXT,
    st.one_of(
        st.builds(lambda value: pb.InferParameter(bool_param=value), st.booleans()),
        st.builds(lambda value: pb.InferParameter(int64_param=value), INT64),
        st.builds(lambda value: pb.InferParameter(string_param=value), TEXT),
        st.builds(lambda value: pb.InferParameter(double_param=value), st.floats(allow_nan=False)),
        st.builds(lambda value: pb.InferParameter(uint64_param=value), st.integers(0, 2**64 - 1)),
        st.just(pb.InferParameter()),
    ),
    max_size=4,
)


@st.composite
def requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=draw(TEXT), model_version=draw(TEXT), id=draw(TEXT))
    for name, value in draw(PARAMETERS).items():
        request.parameters[name].CopyFrom(value)
    raw = draw(st.booleans())
    for _ in range(draw(st.integers(0, 4))):
        tensor = request.inputs.add(name=draw(TEXT), datatype=draw(TEXT), shape=draw(SHAPES))
        if raw:
            request.raw_input_contents.append(draw(st.binary(max_size=40)))
        elif draw(st.booleans()):
            tensor.contents.int64_contents.extend(draw(st.lists(INT64, max_size=4)))
    for _ in range(draw(st.integers(0, 3))):
        request.outputs.add(name=draw(TEXT))
    return request


def parameter_values(request: pb.ModelInferRequest) -> dict[str, object]:
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in request.parameters.items())
    return {name: getattr(value, field) for name, value, field in chosen if field is not None}


@given(requests())
def test_a_request_is_read_as_the_generated_class_reads_it(request_: pb.ModelInferRequest) -> None:
    read = read_infer_request(request_.SerializeToString())
    assert read.id == request_.id
    assert list(read.outputs) == [output.name for output in request_.outputs]
    assert read.raw_count == len(request_.raw_input_contents)
    assert read_parameters(read.parameters) == parameter_values(request_)
    assert len(read.inputs) == len(request_.inputs)
    for index, (tensor, expected) in enumerate(zip(read.inputs, request_.inputs, strict=True)):
        assert (tensor.name, tensor.datatype, list(tensor.shape)) == (
            expected.name,
            expected.datatype,
            list(expected.shape),
        )
        assert b"".join(tensor.contents) == (
            expected.contents.SerializeToString() if expected.HasField("contents") else b""
        )
        if request_.raw_input_contents:
            assert tensor.raw is not None
            assert bytes(tensor.raw) == request_.raw_input_contents[index]
        else:
            assert tensor.raw is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_as_malformed(payload: bytes) -> None:
    try:
        read_infer_request(payload)
    except HeadraceError as error:
        assert error.entry.grpc == "INVALID_ARGUMENT"


@given(requests(), st.data())
def test_a_damaged_request_never_escapes_the_catalogue(request_: pb.ModelInferRequest, data: st.DataObject) -> None:
    payload = bytearray(request_.SerializeToString())
    if payload:
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        for tensor in read_infer_request(bytes(payload)).inputs:
            assert len(tensor.shape) <= RANK_MAX
    except HeadraceError as error:
        assert error.entry.grpc == "INVALID_ARGUMENT"


def test_raw_contents_are_views_of_the_received_bytes() -> None:
    payload = pb.ModelInferRequest(
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2])],
        raw_input_contents=[np.array([1, 2], "<f4").tobytes()],
    ).SerializeToString()
    (tensor,) = read_infer_request(payload).inputs
    array = to_array(tensor)
    assert np.shares_memory(array, np.frombuffer(payload, np.uint8))
    assert array.tolist() == [1.0, 2.0]


def refusal(payload: bytes) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        read_infer_request(payload)
    return caught.value


def test_both_content_forms_at_once_are_refused() -> None:
    request = pb.ModelInferRequest(raw_input_contents=[b"abcd"])
    request.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
    error = refusal(request.SerializeToString())
    assert error.entry is catalogue.TENSOR_CONTENT_CONFLICT
    assert "'x'" in error.message


def test_more_raw_contents_than_inputs_are_refused() -> None:
    request = pb.ModelInferRequest(raw_input_contents=[b"abcd", b"efgh"])
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    error = refusal(request.SerializeToString())
    assert error.entry is catalogue.TENSOR_RAW_COUNT_MISMATCH
    assert error.context == {"expected": 1, "actual": 2}


def test_too_many_tensors_dimensions_and_fields_are_refused() -> None:
    many = pb.ModelInferRequest()
    for _ in range(TENSORS_MAX + 1):
        many.inputs.add(name="x")
    assert refusal(many.SerializeToString()).entry is catalogue.FIELD_TOO_LONG
    deep = pb.ModelInferRequest()
    deep.inputs.add(name="x", shape=[1] * (RANK_MAX + 1))
    assert refusal(deep.SerializeToString()).entry is catalogue.TENSOR_DIMENSION_INVALID
    unknown_fields = wire.encode_varint_field(99, 1) * 10_000
    assert refusal(unknown_fields).entry is catalogue.REQUEST_MALFORMED
    hidden_in_a_group = wire.varint(99 << 3 | wire.START_GROUP) + unknown_fields + wire.varint(99 << 3 | wire.END_GROUP)
    assert refusal(hidden_in_a_group).entry is catalogue.REQUEST_MALFORMED
    assert refusal(wire.encode_len_field(5, hidden_in_a_group)).entry is catalogue.REQUEST_MALFORMED


def test_unpacked_dimensions_are_read_too() -> None:
    tensor = wire.encode_len_field(1, b"x") + b"".join(wire.encode_varint_field(3, size) for size in (2, -1, 300))
    (read,) = read_infer_request(wire.encode_len_field(5, tensor)).inputs
    assert read.shape == (2, -1, 300)


def test_of_a_repeated_single_field_the_last_one_counts() -> None:
    assert read_infer_request(wire.encode_len_field(3, b"a") + wire.encode_len_field(3, b"b")).id == "b"


NUMBERS = {
    "BOOL": ("bool_contents", st.booleans()),
    "INT8": ("int_contents", st.integers(-128, 127)),
    "INT16": ("int_contents", st.integers(-(2**15), 2**15 - 1)),
    "INT32": ("int_contents", st.integers(-(2**31), 2**31 - 1)),
    "INT64": ("int64_contents", INT64),
    "UINT8": ("uint_contents", st.integers(0, 255)),
    "UINT16": ("uint_contents", st.integers(0, 2**16 - 1)),
    "UINT32": ("uint_contents", st.integers(0, 2**32 - 1)),
    "UINT64": ("uint64_contents", st.integers(0, 2**64 - 1)),
    "FP32": ("fp32_contents", st.floats(width=32, allow_nan=False)),
    "FP64": ("fp64_contents", st.floats(allow_nan=False)),
    "BYTES": ("bytes_contents", st.binary(max_size=8)),
}


@given(st.sampled_from(sorted(NUMBERS)), st.data())
def test_typed_contents_are_decoded_as_the_generated_class_decodes_them(datatype: str, data: st.DataObject) -> None:
    field, values = NUMBERS[datatype]
    elements = data.draw(st.lists(values, max_size=30))
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[len(elements)])
    getattr(tensor.contents, field).extend(elements)
    (read,) = read_infer_request(request.SerializeToString()).inputs
    array = to_array(read)
    assert array.dtype == DATATYPES[datatype].dtype
    assert array.tolist() == elements


@given(st.sampled_from(sorted(DATATYPES.keys() - {"BYTES", "BF16"})), st.data())
def test_raw_contents_hold_the_elements_little_endian(datatype: str, data: st.DataObject) -> None:
    dtype = DATATYPES[datatype].dtype
    count = data.draw(st.integers(0, 10))
    elements = np.frombuffer(
        data.draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)), dtype
    )
    if datatype == "BOOL":
        elements = elements.view(np.uint8) % 2 == 1
    # An odd offset in the message must not matter.
    tensor = RequestTensor("x", datatype, (count,), memoryview(b"?" + elements.tobytes())[1:], ())
    assert to_array(tensor).tobytes() == elements.tobytes()


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_strings_are_split_at_their_length_prefixes(elements: list[bytes]) -> None:
    raw = b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    tensor = RequestTensor("x", "BYTES", (len(elements),), memoryview(raw), ())
    assert to_array(tensor).tolist() == elements


@given(st.binary(max_size=40), st.integers(0, 6))
def test_any_string_bytes_are_split_or_refused(raw: bytes, count: int) -> None:
    tensor = RequestTensor("x", "BYTES", (count,), memoryview(raw), ())
    try:
        elements = to_array(tensor).tolist()
    except HeadraceError as error:
        assert error.entry is catalogue.TENSOR_STRING_MALFORMED
    else:
        assert b"".join(len(element).to_bytes(4, "little") + element for element in elements) == raw


def test_typed_contents_in_the_wrong_list_or_number_or_range_are_refused() -> None:
    def entry_of(datatype: str, contents: pb.InferTensorContents) -> catalogue.CatalogueEntry:
        tensor = RequestTensor("x", datatype, (1,), None, (memoryview(contents.SerializeToString()),))
        with pytest.raises(HeadraceError) as caught:
            to_array(tensor)
        assert "'x'" in caught.value.message
        return caught.value.entry

    assert entry_of("INT8", pb.InferTensorContents(int_contents=[128])) is catalogue.TENSOR_ELEMENT_INVALID
    assert entry_of("UINT16", pb.InferTensorContents(uint_contents=[65_536])) is catalogue.TENSOR_ELEMENT_INVALID
    assert entry_of("FP32", pb.InferTensorContents(fp32_contents=[1, 2])) is catalogue.TENSOR_BYTES_MISMATCH
    assert entry_of("FP32", pb.InferTensorContents(fp64_contents=[1])) is catalogue.TENSOR_CONTENT_TYPE_MISMATCH
    assert entry_of("BOOL", pb.InferTensorContents()) is catalogue.TENSOR_BYTES_MISMATCH


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_long_runs_of_varints_are_decoded_across_blocks(values: list[int]) -> None:
    repeated = values * 3_000
    contents = pb.InferTensorContents(uint64_contents=repeated)
    tensor = RequestTensor("x", "UINT64", (len(repeated),), None, (memoryview(contents.SerializeToString()),))
    assert to_array(tensor).tolist() == repeated
