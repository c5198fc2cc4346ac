"""Writing a ModelInferResponse, read back by the generated class."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.infer_response import ResponseWriter
from inference import open_inference_pb2 as pb

FIXED_SIZE = sorted(DATATYPES.keys() - {"BYTES"})


@st.composite
def outputs(draw: st.DrawFn) -> tuple[str, str, Array]:
    name = draw(st.text(max_size=8))
    shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    if draw(st.booleans()):
        elements = draw(st.lists(st.binary(max_size=6), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        array = np.empty(len(elements), dtype=object)
        array[:] = elements
        return name, "BYTES", array.reshape(shape)
    datatype = draw(st.sampled_from(FIXED_SIZE))
    return name, datatype, draw(st_numpy.arrays(DATATYPES[datatype].dtype, shape))


def raw_of(datatype: str, array: Array) -> bytes:
    if datatype == "BYTES":
        return b"".join(len(element).to_bytes(4, "little") + element for element in array.reshape(-1))
    return array.astype(DATATYPES[datatype].dtype).tobytes()


@given(st.text(max_size=8), st.text(max_size=8), st.lists(outputs(), max_size=4), st.booleans())
def test_a_response_is_read_by_the_generated_class(
    model: str, request_id: str, written: list[tuple[str, str, Array]], transposed: bool
) -> None:
    if transposed:
        written = [(name, datatype, array.T) for name, datatype, array in written]
    payload = ResponseWriter(model_name=model, model_version="7").write(request_id, written)
    response = pb.ModelInferResponse.FromString(bytes(payload))
    assert (response.model_name, response.model_version, response.id) == (model, "7", request_id)
    assert [(out.name, out.datatype, tuple(out.shape)) for out in response.outputs] == [
        (name, datatype, array.shape) for name, datatype, array in written
    ]
    assert list(response.raw_output_contents) == [raw_of(datatype, array) for _, datatype, array in written]


def test_text_elements_are_written_as_utf8() -> None:
    texts = np.array(["é", ""], dtype=object)
    payload = ResponseWriter(model_name="m", model_version="1").write("", [("y", "BYTES", texts)])
    assert pb.ModelInferResponse.FromString(bytes(payload)).raw_output_contents == [b"\x02\0\0\0\xc3\xa9\0\0\0\0"]


def test_a_large_tensor_is_not_copied() -> None:
    array = np.ones(8 << 20, np.float32)
    writer = ResponseWriter(model_name="m", model_version="1")
    tracemalloc.start()
    payload = writer.write("", [("y", "FP32", array)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.01 * len(payload)
    assert pb.ModelInferResponse.FromString(bytes(payload)).raw_output_contents == [array.tobytes()]
