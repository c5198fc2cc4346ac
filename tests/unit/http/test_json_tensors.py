"""Tensors in JSON: every datatype there and back, and what is refused with which field."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from headrace_client import byte_elements
from headrace_client.datatypes import DTYPES
from headrace_client.errors import TensorError
from headrace_client.tensors import decode
from headrace_gateway.http.json_tensors import data_of, tensor_of

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
LONG = {"BOOL": "BOOLEAN", "FP16": "FLOAT16", "FP32": "FLOAT32", "FP64": "FLOAT64", "BF16": "BFLOAT16"}


@st.composite
def raw_tensors(draw: st.DrawFn) -> tuple[str, tuple[int, ...], bytes]:
    """Datatype, shape and bytes: every bit pattern of the numbers, and any text."""
    datatype = draw(st.sampled_from([*DTYPES, "BF16", "BYTES"]))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        texts = draw(arrays.arrays(object, shape, elements=st.text(max_size=5)))
        return datatype, shape, byte_elements.packed(texts.ravel().tolist())
    kind = np.dtype("<u2") if datatype == "BF16" else DTYPES[datatype]
    if datatype == "BOOL":
        return datatype, shape, draw(arrays.arrays(np.bool_, shape)).tobytes()
    bits = draw(arrays.arrays(np.dtype(f"<u{kind.itemsize}"), shape))
    return datatype, shape, bits.tobytes()


def as_json(value: Any) -> Any:
    """What a client reads of it."""
    return orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def same_values(datatype: str, shape: tuple[int, ...], first: bytes, second: bytes) -> None:
    """Bit by bit, but that one NaN is like another."""
    left, right = (decode("t", datatype, shape, raw) for raw in (first, second))
    np.testing.assert_array_equal(left, right)
    if left.dtype.kind == "f":
        finite: NDArray[Any] = ~np.isnan(left)
        np.testing.assert_array_equal(np.signbit(left[finite]), np.signbit(right[finite]))


@given(raw_tensors(), st.booleans())
@settings(max_examples=300)
def test_every_tensor_survives_json(tensor: tuple[str, tuple[int, ...], bytes], flat: bool) -> None:
    datatype, shape, raw = tensor
    if not shape and datatype == "BYTES":
        flat = True  # A text that is not in a list is base64.
    document = as_json(data_of(datatype, shape, raw, flat=flat))
    back = tensor_of("t", LONG.get(datatype, datatype), list(shape), document)
    assert (back.name, back.datatype, back.shape) == ("t", datatype, shape)
    same_values(datatype, shape, raw, back.raw)
    if not flat and math.prod(shape):
        assert tensor_of("t", datatype, None, document).shape == shape


@given(raw_tensors())
def test_base64_and_bytes_are_the_bytes_themselves(tensor: tuple[str, tuple[int, ...], bytes]) -> None:
    datatype, shape, raw = tensor
    text = data_of(datatype, shape, raw, base64=True)
    assert base64.b64decode(text) == raw
    for data in (text, raw):
        assert tensor_of("t", datatype, list(shape), data).raw == raw


@pytest.mark.parametrize("datatype", [name for name, dtype in DTYPES.items() if dtype.kind in "iu"])
def test_whole_numbers_end_where_their_datatype_does(datatype: str) -> None:
    limits = np.iinfo(DTYPES[datatype])
    at_ends = tensor_of("t", datatype, [2], as_json([int(limits.min), int(limits.max)]))
    assert decode("t", datatype, (2,), at_ends.raw).tolist() == [limits.min, limits.max]
    for beyond in (int(limits.min) - 1, int(limits.max) + 1):
        with pytest.raises(TensorError) as caught:
            tensor_of("t", datatype, [1], as_json([beyond]) if -(1 << 63) <= beyond < 1 << 64 else [beyond])
        assert (caught.value.field, caught.value.reason) == ("inputs.t.data", "TENSOR_ELEMENT_INVALID")


@pytest.mark.parametrize(("datatype", "beyond"), [("FP16", 65_520), ("FP32", 3.5e38), ("BF16", 3.4e38)])
def test_fractions_do_not_become_infinite(datatype: str, beyond: float) -> None:
    with pytest.raises(TensorError, match=f"too large for {datatype}") as caught:
        tensor_of("t", datatype, [1], [beyond], field="inputs[3]")
    assert caught.value.field == "inputs[3].data"


def test_numbers_that_are_not_finite_are_texts() -> None:
    raw = struct.pack("<4f", math.nan, math.inf, -math.inf, 0.5)
    assert as_json(data_of("FP32", (2, 2), raw)) == [["NaN", "Infinity"], ["-Infinity", 0.5]]
    back = np.frombuffer(tensor_of("t", "BF16", [4], ["NaN", "Infinity", "-Infinity", 0.5]).raw, "<u2")
    assert [f"{bits:04x}" for bits in back] == ["7fc0", "7f80", "ff80", "3f00"]


def test_numbers_are_rounded_to_the_nearest_and_written_shortest() -> None:
    assert orjson.dumps(data_of("FP32", (1,), struct.pack("<f", 0.1)), option=orjson.OPT_SERIALIZE_NUMPY) == b"[0.1]"
    assert tensor_of("t", "FP32", [1], [0.1]).raw == struct.pack("<f", 0.1)
    assert tensor_of("t", "FP64", [1], [1 << 63]).raw == struct.pack("<d", 1 << 63)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "field", "why"),
    [
        ("FP8", [1], [1], "datatype", "not a datatype; there are BOOL"),
        (None, [1], [1], "datatype", "a datatype is needed"),
        ("FP32", "2", [1], "shape", "a shape is a list"),
        ("FP32", [-1], [1], "shape", "0 or more"),
        ("FP32", [True], [1], "shape", "whole numbers"),
        ("FP32", [1 << 63], [1], "shape", "whole numbers"),
        ("FP32", [1.0], [1], "shape", "whole numbers"),
        ("FP32", [1] * 33, [1], "shape", "at most 32 axes"),
        ("FP32", [2, 2], [1, 2, 3], "data", "4 elements, not 3"),
        ("FP32", [2, 2], [[1, 2]], "data", "1 rows"),
        ("FP32", [2, 2], [[1, 2], [3]], "data", "different lengths"),
        ("FP32", [2, 2], [[1, 2], 3], "data", "not nested"),
        ("FP32", [2, 2], [[[1], [2]], [[3], [4]]], "data", "nested deeper"),
        ("FP32", [2, 1, 1], [[1], [2]], "data", "not nested"),
        ("FP32", [2], [1, [2]], "data", "nested deeper"),
        ("FP32", [], [[1]], "data", "1 rows"),
        ("FP32", [1], 1, "data", "a list is needed, not a number"),
        ("FP32", None, [[1, 2], [3]], "data", "different lengths"),
        ("FP32", None, {"b64": ""}, "data", "FP32 needs numbers, not an object"),
        ("FP32", [1], [None], "data", "not null"),
        ("FP32", [1], [True], "data", "not a truth value"),
        ("FP32", [1], ["1"], "data", "of texts there are"),
        ("FP32", [1], ["nan"], "data", "of texts there are"),
        ("INT32", [1], [1.0], "data", "whole numbers, not a fraction"),
        ("INT32", [1], ["NaN"], "data", "not a text"),
        ("INT32", [2], [1, True], "data", "not a truth value"),
        ("BOOL", [1], [1], "data", "true and false, not a number"),
        ("BYTES", [1], [1], "data", "texts, not a number"),
        ("FP32", [1], "AAAA*A==", "data", "not base64"),
        ("FP32", [1], "é", "data", "not base64"),
        ("FP32", [1], "AAA=", "data", "has 4 bytes, not 2"),
        ("FP32", None, "AAAAAA==", "shape", "needs a shape"),
    ],
)
def test_what_does_not_fit_is_told_with_its_field(datatype: Any, shape: Any, data: Any, field: str, why: str) -> None:
    with pytest.raises(TensorError, match=why) as caught:
        tensor_of("image", datatype, shape, data)
    assert caught.value.field == f"inputs.image.{field}"
    assert caught.value.context == {"tensor": "image"}


def test_nesting_has_an_end() -> None:
    data: Any = 1
    for _ in range(1000):
        data = [data]
    for shape in (None, [1] * 32):
        with pytest.raises(TensorError) as caught:
            tensor_of("t", "FP32", shape, data)
        assert caught.value.field == "inputs.t.data"


def test_the_key_of_the_datatype_is_the_documents_own() -> None:
    with pytest.raises(TensorError) as caught:
        tensor_of("t", "FP31", [1], [1], field="inputs.t", datatype_key="dtype")
    assert caught.value.field == "inputs.t.dtype"


def test_bytes_that_are_no_text_need_another_form() -> None:
    raw = byte_elements.packed([b"\xff"])
    with pytest.raises(TensorError, match="ask for base64 or binary") as caught:
        data_of("BYTES", (1,), raw)
    assert caught.value.reason == "TENSOR_STRING_MALFORMED"
    assert tensor_of("t", "STRING", [1], data_of("BYTES", (1,), raw, base64=True)).raw == raw
    assert tensor_of("t", "BYTES", [1], [b"\xff"]).raw == raw


def test_refusals_of_long_names_are_short() -> None:
    with pytest.raises(TensorError) as caught:
        tensor_of("n" * 100_000, "x" * 100_000, [1], [1])
    assert len(str(caught.value) + str(caught.value.field) + str(caught.value.context)) < 2000
