"""numpy arrays as raw tensors and back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from headrace_client import Tensor
from headrace_client.datatypes import ALL, DTYPES
from headrace_client.errors import TensorError
from headrace_client.tensors import RawTensor, decode, encode

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
BYTES = st.binary(max_size=8) | st.sampled_from([b"", b"\0", b"a\0", b"\xff\xfe", "☃".encode()])


def round_trip(value: Any) -> NDArray[Any]:
    sent = encode("x", value)
    return decode(sent.name, sent.datatype, sent.shape, sent.raw)


def bits(array: NDArray[Any]) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()


def refusal(value: Any) -> TensorError:
    with pytest.raises(TensorError) as caught:
        encode("x", value)
    assert (caught.value.field, caught.value.context) == ("x", {"tensor": "x"})
    assert "tensor 'x'" in caught.value.message
    return caught.value


@pytest.mark.parametrize("datatype", DTYPES)
@given(data=st.data())
def test_every_bit_of_every_number_comes_back(datatype: str, data: st.DataObject) -> None:
    dtype = DTYPES[datatype]
    array = data.draw(arrays.arrays(dtype, SHAPES))
    sent = encode("x", array)
    assert (sent.datatype, sent.shape, len(sent.raw)) == (datatype, array.shape, array.nbytes)
    back = decode("x", datatype, sent.shape, sent.raw)
    assert back.dtype == dtype
    assert bits(back) == bits(array)


@given(data=st.data())
def test_elements_of_bytes_come_back_whatever_is_in_them(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    elements = data.draw(st.lists(BYTES, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    back = round_trip(array.reshape(shape))
    assert (back.shape, back.ravel().tolist()) == (shape, elements)


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize(
    "disorder",
    [
        lambda array: array[:, ::-2],
        lambda array: array.T,
        np.asfortranarray,
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: array.astype(array.dtype.newbyteorder(">")).T[::-1],
        lambda array: np.broadcast_to(array[:1], (3, 4)),
        lambda array: array[1, 2],
    ],
    ids=["strided", "transposed", "fortran", "big-endian", "big-endian transposed", "broadcast", "one element"],
)
def test_memory_layout_and_byte_order_dont_matter(
    datatype: str, disorder: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    array = disorder(np.arange(12).reshape(3, 4).astype(DTYPES[datatype]))
    sent = encode("x", array)
    assert sent.datatype == datatype
    np.testing.assert_array_equal(decode("x", datatype, sent.shape, sent.raw), array, strict=False)


def test_received_numbers_are_read_only_views_of_the_received_bytes() -> None:
    raw = np.arange(6, dtype="<f4").tobytes()
    array = decode("z", "FP32", [2, 3], raw)
    assert not array.flags.writeable
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert base is raw


@pytest.mark.parametrize("datatype", ALL)
def test_empty_tensors_have_no_bytes(datatype: str) -> None:
    kind = {"BYTES": object, "BOOL": bool}.get(datatype, np.uint8)
    sent = encode("x", Tensor(np.zeros((0, 4), dtype=kind), datatype))
    assert sent == RawTensor(name="x", datatype=datatype, shape=(0, 4), raw=b"")
    assert decode("x", datatype, (0, 4), b"").shape == (0, 4)


@pytest.mark.parametrize(
    "values",
    [["a\0", b"\0", b"\xff"], np.array(["a\0", b"\0", b"\xff"], dtype=object)],
    ids=["list", "object array"],
)
def test_texts_and_bytes_mix_and_keep_their_nul(values: Any) -> None:
    assert round_trip(values).tolist() == [b"a\0", b"\0", b"\xff"]


@pytest.mark.parametrize("values", [[], [[], []], np.zeros((2, 0))], ids=["list", "rows", "array"])
@pytest.mark.parametrize("datatype", ALL)
def test_nothing_is_of_any_datatype(values: Any, datatype: str) -> None:
    sent = encode("x", Tensor(values, datatype))
    assert (sent.datatype, sent.shape, sent.raw) == (datatype, np.asarray(values).shape, b"")


def test_numpys_own_texts_are_sent_as_utf_8() -> None:
    for array in (np.array(["a", "☃"]), np.array([b"a", "☃".encode()])):
        assert round_trip(array).tolist() == [b"a", "☃".encode()]
    assert round_trip(np.array(["a", "☃"], dtype=np.dtypes.StringDType())).tolist() == [b"a", "☃".encode()]
    assert round_trip("one").item() == b"one"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.array([1, "a"], dtype=object), "TENSOR_ELEMENT_INVALID"),
        (np.array([None]), "TENSOR_ELEMENT_INVALID"),
        (np.array([{}, []], dtype=object), "TENSOR_ELEMENT_INVALID"),
        ([1, "a"], "TENSOR_ELEMENT_INVALID"),
        ([1 << 70], "TENSOR_ELEMENT_INVALID"),
        (np.ma.masked_array([1, 2], mask=[True, False]), "TENSOR_ELEMENT_INVALID"),
        (["\ud800"], "TENSOR_STRING_MALFORMED"),
        ([[1, 2], [3]], "TENSOR_SHAPE_MISMATCH"),
        (np.array([1j]), "TENSOR_DATATYPE_UNSUPPORTED"),
        (np.array(["2026-01-01"], dtype="M8[s]"), "TENSOR_DATATYPE_UNSUPPORTED"),
        (np.zeros(2, dtype=[("a", "f4")]), "TENSOR_DATATYPE_UNSUPPORTED"),
        (np.zeros(2, dtype="V2"), "TENSOR_DATATYPE_UNSUPPORTED"),
        (Tensor([1], "FP8"), "TENSOR_DATATYPE_UNSUPPORTED"),
        (Tensor([1.5], "INT32"), "TENSOR_DATATYPE_MISMATCH"),
        (Tensor([True], "FP32"), "TENSOR_DATATYPE_MISMATCH"),
        (Tensor([1], "BOOL"), "TENSOR_DATATYPE_MISMATCH"),
        (Tensor(["1"], "INT32"), "TENSOR_DATATYPE_MISMATCH"),
        (Tensor([1.0], "BYTES"), "TENSOR_DATATYPE_MISMATCH"),
        (Tensor(["1"], "BF16"), "TENSOR_DATATYPE_MISMATCH"),
        (Tensor([128], "INT8"), "TENSOR_ELEMENT_INVALID"),
        (Tensor([-1], "UINT64"), "TENSOR_ELEMENT_INVALID"),
        (Tensor([70_000], "FP16"), "TENSOR_ELEMENT_INVALID"),
        (Tensor([[np.inf, 65_520.0]], "FP16"), "TENSOR_ELEMENT_INVALID"),
        (Tensor([1e300], "FP32"), "TENSOR_ELEMENT_INVALID"),
        (Tensor([1e300], "BF16"), "TENSOR_ELEMENT_INVALID"),
        (Tensor(np.array([[3.4e38]], np.float32), "BF16"), "TENSOR_ELEMENT_INVALID"),
    ],
    ids=lambda value: repr(value).replace("\n", "")[:40],
)
def test_what_cant_be_sent_is_refused_by_name(value: Any, reason: str) -> None:
    assert refusal(value).reason == reason


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BOOL"])
def test_a_named_datatype_takes_numbers_of_other_types(datatype: str) -> None:
    dtype = DTYPES[datatype]
    for values in ([0, 1, 100], np.array([0, 1, 100], dtype=np.uint8), (0, 1, 100)):
        sent = encode("x", Tensor(values, datatype))
        np.testing.assert_array_equal(
            decode("x", datatype, sent.shape, sent.raw), np.array([0, 1, 100], dtype), strict=True
        )


def test_fractions_are_rounded_to_the_named_datatype() -> None:
    np.testing.assert_array_equal(
        round_trip(Tensor([0.1, 3.4e38, -np.inf], "FP32")), np.array([0.1, 3.4e38, -np.inf], np.float32)
    )


class TestBfloat16:
    EXACT = np.array([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, 3.0e38, 1e-40], dtype=np.float32).view("<u4") & 0xFFFF0000

    def test_bits_in_a_uint16_array_are_taken_as_they_are(self) -> None:
        every = np.arange(1 << 16, dtype=np.uint16)
        sent = encode("x", Tensor(every, "BF16"))
        assert sent.raw == every.tobytes()
        widened = decode("x", "BF16", sent.shape, sent.raw)
        assert widened.dtype == np.float32
        np.testing.assert_array_equal(widened.view("<u4") >> 16, every)

    def test_arrays_of_ml_dtypes_need_no_name(self) -> None:
        array = np.arange(12).reshape(3, 4).astype(ml_dtypes.bfloat16)
        for disorder in (array, array.T[::-1], array[1:, ::2], array[0, 0]):
            sent = encode("x", disorder)
            assert (sent.datatype, sent.shape) == ("BF16", disorder.shape)
            np.testing.assert_array_equal(decode("x", "BF16", sent.shape, sent.raw), disorder.astype(np.float32))

    def test_values_that_it_holds_survive_as_floats(self) -> None:
        values = self.EXACT.view(np.float32)
        assert bits(round_trip(Tensor(values, "BF16"))) == bits(values)
        assert bits(round_trip(Tensor(values.astype(">f4"), "BF16"))) == bits(values)

    def test_other_floats_are_rounded_to_the_nearest_and_ties_to_even(self) -> None:
        ulp = 2.0**-7
        values = [1 + 0.49 * ulp, 1 + 0.5 * ulp, 1 + 0.51 * ulp, 1 + 1.5 * ulp]
        assert round_trip(Tensor(values, "BF16")).tolist() == [1, 1, 1 + ulp, 1 + 2 * ulp]

    def test_a_nan_stays_one_whatever_its_bits(self) -> None:
        nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0x7FC00000], dtype="<u4").view(np.float32)
        assert np.isnan(round_trip(Tensor(nans, "BF16"))).all()

    def test_shape_and_disorder_are_those_of_any_array(self) -> None:
        array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::-1]
        np.testing.assert_array_equal(round_trip(Tensor(array, "BF16")), array)
        assert round_trip(Tensor(1.5, "BF16")).shape == ()


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", (2,), b"\0" * 7),
        ("FP32", (3,), b"\0" * 8),
        ("BF16", (2,), b"\0" * 3),
        ("BYTES", (1,), b"\1\0\0"),
        ("BYTES", (1,), b"\2\0\0\0a"),
        ("BYTES", (2,), b"\1\0\0\0a"),
        ("FP8", (1,), b"\0"),
    ],
)
def test_received_bytes_that_dont_fit_are_an_error_with_the_outputs_name(
    datatype: str, shape: tuple[int, ...], raw: bytes
) -> None:
    with pytest.raises(TensorError, match="tensor 'z'"):
        decode("z", datatype, shape, raw)


@given(raw=st.binary(max_size=40), datatype=st.sampled_from(ALL), shape=st.lists(st.integers(0, 4), max_size=3))
def test_any_received_bytes_make_an_array_or_a_tensor_error(raw: bytes, datatype: str, shape: list[int]) -> None:
    with suppress(TensorError):
        assert decode("z", datatype, shape, raw).shape == tuple(shape)
