"""A reader that remembers requests reads each as one that has seen no other."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace_common import wire
from headrace_common.errors import HeadraceError
from headrace_runner.tensors.infer_request import InferRequest, read_infer_request
from headrace_runner.tensors.request_reader import RequestReader
from headrace_runner.tensors.signature import Signature, TensorSpec
from inference import open_inference_pb2 as oip

ID, OUTPUTS, RAW, UNKNOWN = 3, 6, 7, 9
SIGNATURE = Signature(
    inputs=[
        TensorSpec("x", "INT8", (-1,)),
        TensorSpec("y", "INT8", (-1,), optional=True),
        TensorSpec("s", "BYTES", (-1,), optional=True),
    ],
    outputs=[TensorSpec("z", "FP32", (-1,)), TensorSpec("w", "FP32", (-1,))],
)
FOUR = [b"abcd", b"\x3a\x02zz", b"\x1a\x02id", bytes(4)]


def seen(request: InferRequest, outputs: tuple[str, ...]) -> tuple[Any, ...]:
    """Everything of a request, its views as bytes."""
    inputs = [
        (t.name, t.datatype, t.shape, None if t.raw is None else bytes(t.raw), tuple(map(bytes, t.contents)))
        for t in request.inputs
    ]
    parameters = tuple(map(bytes, request.parameters))
    return request.id, inputs, request.outputs, request.raw_count, parameters, request.form, outputs


def plainly(payload: bytes) -> object:
    """How the plain way reads it: the request, or the reason of its failure."""
    try:
        request = read_infer_request(payload)
        return seen(request, SIGNATURE.check(request))
    except HeadraceError as error:
        return error.reason


def read_by(reader: RequestReader, payload: bytes) -> object:
    try:
        checked = reader.read(payload)
        return seen(checked.request, checked.kind.outputs)
    except HeadraceError as error:
        return error.reason


def with_tensor(name: str, size: int, datatype: str = "INT8") -> bytes:
    tensor = oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=[size])
    return oip.ModelInferRequest(inputs=[tensor]).SerializeToString()


def raw(content: bytes) -> bytes:
    return wire.encode_len_field(RAW, content)


def padded(payload: bytes) -> bytes:
    """The field's length in more bytes than it takes."""
    return payload[:1] + bytes([payload[1] | 0x80, 0]) + payload[2:]


X, Y, S = with_tensor("x", 4), with_tensor("y", 4), with_tensor("s", 1, "BYTES")
WORD = b"\x04\x00\x00\x00"
elements = st.sampled_from(FOUR)
pieces = st.one_of(
    st.sampled_from([X, Y, S, wire.encode_len_field(OUTPUTS, wire.encode_len_field(1, b"z"))]),
    st.builds(raw, elements),
    st.builds(lambda four: raw(WORD + four), elements),
    st.builds(lambda four: padded(raw(four)), elements),
    st.builds(lambda four: wire.encode_len_field(ID, raw(four)), elements),
    st.builds(lambda four: wire.encode_len_field(UNKNOWN, raw(four)), elements),
    elements,
)


@st.composite
def usual(draw: st.DrawFn) -> bytes:
    """As encoders write requests."""
    names = draw(st.sampled_from([[X], [X, Y], [X, S], [Y, X], [X, Y, S]]))
    ids = st.sampled_from(["", "a", "b", ":\x02id"])
    head = oip.ModelInferRequest(model_name="m", id=draw(ids)).SerializeToString()
    outputs = draw(st.sampled_from([b"", wire.encode_len_field(OUTPUTS, wire.encode_len_field(1, b"z"))]))
    sizes = [raw(WORD + draw(elements)) if name is S else raw(draw(elements)) for name in names]
    return b"".join((head, *names, outputs, *sizes))


@given(st.lists(st.one_of(usual(), st.builds(b"".join, st.lists(pieces, max_size=6))), max_size=30))
@example(
    [
        X + raw(b"abcd") + wire.encode_len_field(ID, raw(b"1234")),
        X + raw(b"abcd") + wire.encode_len_field(ID, raw(b"5678")),
    ]
)
@example(
    [X + Y + raw(b"abcd") + raw(b"efgh"), X + Y + raw(b"abcd") + raw(b"ijkl"), X + X + raw(b"abcd") + raw(b"ijkl")]
)
def test_what_was_read_before_changes_nothing(sequence: list[bytes]) -> None:
    reader = RequestReader(SIGNATURE)
    for payload in [*sequence, *sequence]:
        assert read_by(reader, payload) == plainly(payload)


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_requests_of_any_buffer_are_read(buffer: Any) -> None:
    reader = RequestReader(SIGNATURE)
    for content in FOUR:
        checked = reader.read(buffer(X + raw(content)))
        assert checked.request.inputs[0].raw == content
        assert checked.kind.outputs == ("z", "w")


def test_each_request_has_its_own_elements() -> None:
    reader = RequestReader(SIGNATURE)
    first = reader.read(X + raw(b"abcd")).request
    second = reader.read(X + raw(b"efgh")).request
    assert (first.inputs[0].raw, second.inputs[0].raw) == (b"abcd", b"efgh")


def test_a_request_that_differs_before_its_elements_is_read_anew() -> None:
    reader = RequestReader(SIGNATURE)
    for name in ("a", "b", "a"):
        sent = oip.ModelInferRequest(id=name).SerializeToString() + X + raw(b"abcd")
        assert reader.read(sent).request.id == name


def test_a_remembered_request_keeps_nothing_of_its_payload_alive() -> None:
    reader = RequestReader(SIGNATURE)
    empty = oip.InferTensorContents()
    tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="INT8", shape=[4], contents=empty)
    payload = oip.ModelInferRequest(inputs=[tensor], raw_input_contents=[b"abcd"]).SerializeToString()
    before = sys.getrefcount(payload)
    reader.read(payload)
    gc.collect()
    assert sys.getrefcount(payload) == before
