"""Tensors in JSON and MessagePack: numbers in lists, texts, or base64 of the raw bytes.

JSON has no NaN and no infinity: in tensors of floating point they are the texts `"NaN"`, `"Infinity"` and
`"-Infinity"`, both ways.
"""

from __future__ import annotations

import base64 as base64_codec
import binascii
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from headrace_client import failures
from headrace_client.datatypes import ALL, BF16, BYTES, DTYPES
from headrace_client.errors import TensorError
from headrace_client.failures import Failure
from headrace_client.tensors import RawTensor, Tensor, decode, encode

AXES_MAX = 32
_NAME_SHOWN = 128
_SIZE_MAX = (1 << 63) - 1
_LONG_NAMES = {
    "BOOLEAN": "BOOL",
    "FLOAT16": "FP16",
    "FLOAT32": "FP32",
    "FLOAT64": "FP64",
    "BFLOAT16": BF16,
    "STRING": BYTES,
}
_NAMES = {name: name for name in ALL} | _LONG_NAMES
_NOT_FINITE = frozenset(("NaN", "Infinity", "-Infinity"))
_FRACTIONS = frozenset(("FP16", "FP32", "FP64", BF16))
_TEXTS = frozenset((str, bytes))
_NUMBERS = frozenset((int, float, str))
_WORDS: dict[type, str] = {
    bool: "a truth value",
    bytes: "bytes",
    dict: "an object",
    float: "a fraction, or a number of more than 64 bits",
    int: "a number",
    list: "a list that is nested deeper than the shape",
    str: "a text",
    type(None): "null",
}


def tensor_of(
    name: str,
    datatype: object,
    shape: object,
    data: object,
    *,
    field: str = "",
    datatype_key: str = "datatype",
) -> RawTensor:
    """The tensor that a document holds, as it travels. What the model wants of it is for the mesh to say.

    Args:
        name: Name of the tensor.
        datatype: A name of the Open Inference Protocol (`FP32`), or its long form (`FLOAT32`).
        shape: List of sizes; None takes them from the nesting of `data`.
        data: All elements in a list, or in lists of lists that are nested as the shape says; one element where the
            shape has no axes; a text of base64, or `bytes`: the elements little-endian and row-major, each of BYTES
            after its length of four bytes.
        field: Path of the tensor in the document, for failures; empty means `inputs.NAME`.
        datatype_key: What the document calls the datatype.

    Raises:
        TensorError: it is none, with the path of the field at fault.
    """
    place = _Place(name, field or f"inputs.{name[:_NAME_SHOWN]}", datatype_key)
    known = _NAMES.get(datatype) if isinstance(datatype, str) else None
    if known is None:
        shown = f"'{datatype[:32]}' is not a datatype" if isinstance(datatype, str) else "a datatype is needed"
        why = f"{shown}; there are {', '.join(ALL)} and the long forms {', '.join(_LONG_NAMES)}"
        raise place.refused(datatype_key, why, failures.TENSOR_DATATYPE_UNSUPPORTED)
    sizes = None if shape is None else _sizes(shape, place)
    # No number without axes has as many bytes as the word `Infinity` would be as base64.
    is_word = data in _NOT_FINITE and known in _FRACTIONS and not sizes if isinstance(data, str) else False
    if isinstance(data, str | bytes) and not is_word:
        return RawTensor(name=name, datatype=known, shape=sizes or (), raw=_raw_bytes(data, known, sizes, place))
    elements, sizes = _elements(data, sizes, place)
    try:
        encoded = encode(place.name, Tensor(_array(elements, known, place), known))
    except TensorError as error:
        raise TensorError(error.message, error.failure, context=error.context, field=f"{place.field}.data") from None
    return RawTensor(name=name, datatype=known, shape=sizes, raw=encoded.raw)


def data_of(
    datatype: str,
    shape: Sequence[int],
    raw: bytes,
    *,
    base64: bool = False,
    flat: bool = False,
    name: str = "output",
) -> Any:
    """What `data` of a tensor is in a document.

    Args:
        datatype: A name of the Open Inference Protocol.
        shape: Its sizes.
        raw: Its elements as they travel.
        base64: Whether to give them as one text of base64.
        flat: Whether to give all elements in one list, not in lists of lists.
        name: Of the tensor, for failures.

    Returns:
        An array of native numbers, which orjson writes itself, with OPT_SERIALIZE_NUMPY; lists where there are texts or
        numbers that are not finite; one element where there are no axes.

    Raises:
        TensorError: a text is not UTF-8, or the bytes don't fit the shape.
    """
    if base64:
        return base64_codec.b64encode(raw).decode()
    array = decode(name, datatype, shape, raw)
    if flat:
        array = array.ravel()
    if array.dtype == object:
        array = _texts(array, name)
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        array = _with_words(array)
    elif array.ndim:
        return array
    return array.tolist()


class _Place:
    """Where in a document a tensor is."""

    def __init__(self, name: str, field: str, datatype_key: str) -> None:
        self.name = name[:_NAME_SHOWN]
        self.field = field
        self.datatype_key = datatype_key

    def refused(self, key: str, why: str, failure: Failure) -> TensorError:
        return TensorError(
            f"tensor '{self.name}': {why}", failure, context={"tensor": self.name}, field=f"{self.field}.{key}"
        )

    def misshapen(self, key: str, why: str) -> TensorError:
        return self.refused(key, why, failures.TENSOR_SHAPE_MISMATCH)


def _sizes(shape: object, place: _Place) -> tuple[int, ...]:
    sizes = cast("list[object]", shape) if isinstance(shape, list) else [None]
    if len(sizes) > AXES_MAX:
        raise place.misshapen("shape", f"there are at most {AXES_MAX} axes, not {len(sizes)}")
    checked = [size for size in sizes if type(size) is int and 0 <= size <= _SIZE_MAX]
    if len(checked) != len(sizes):
        raise place.misshapen("shape", "a shape is a list of whole numbers of 0 or more")
    return tuple(checked)


def _raw_bytes(data: str | bytes, datatype: str, sizes: tuple[int, ...] | None, place: _Place) -> bytes:
    if sizes is None:
        raise place.misshapen("shape", "data that isn't in lists needs a shape")
    if isinstance(data, str):
        try:
            raw = binascii.a2b_base64(data, strict_mode=True)
        except ValueError:
            raise place.refused("data", "the text is not base64", failures.TENSOR_ELEMENT_INVALID) from None
    else:
        raw = data
    if datatype != BYTES:
        wanted = prod(sizes) * (2 if datatype == BF16 else DTYPES[datatype].itemsize)
        if len(raw) != wanted:
            why = f"{datatype} of shape {list(sizes)} has {wanted} bytes, not {len(raw)}"
            raise place.refused("data", why, failures.TENSOR_BYTES_MISMATCH)
    return raw


def _elements(data: object, sizes: tuple[int, ...] | None, place: _Place) -> tuple[list[Any], tuple[int, ...]]:
    """All elements in one list, and the shape."""
    if not isinstance(data, list):
        if sizes:
            raise place.misshapen("data", f"a list is needed, not {_word(type(data))}")
        return [data], ()
    items = cast("list[Any]", data)
    if sizes is None:
        sizes = _nesting(items, place)
    if items and type(items[0]) is list:
        return _unnested(items, sizes, place), sizes
    if len(items) != prod(sizes):
        why = f"shape {list(sizes)} has {prod(sizes)} elements, not {len(items)}"
        raise place.misshapen("data", why)
    return items, sizes


def _nesting(data: list[Any], place: _Place) -> tuple[int, ...]:
    sizes: list[int] = []
    items: Any = data
    while isinstance(items, list):
        rows = cast("list[Any]", items)
        sizes.append(len(rows))
        if len(sizes) > AXES_MAX:
            raise place.misshapen("data", f"lists are nested at most {AXES_MAX} deep")
        items = rows[0] if rows else None
    return tuple(sizes)


def _unnested(items: list[Any], sizes: tuple[int, ...], place: _Place) -> list[Any]:
    """Level by level, each at the speed of C; the elements themselves are not looked at."""
    if len(sizes) == 0 or len(items) != sizes[0]:
        raise place.misshapen("data", f"it has {len(items)} rows, which is not of shape {list(sizes)}")
    for size in sizes[1:]:
        if not set(map(type, items)) <= {list}:
            raise place.misshapen("data", f"it is not nested as the shape {list(sizes)} says")
        if not set(map(len, items)) <= {size}:
            raise place.misshapen("data", f"rows have different lengths, or others than shape {list(sizes)} says")
        items = list(chain.from_iterable(items))
    return items


def _array(elements: list[Any], datatype: str, place: _Place) -> NDArray[Any]:
    kinds = set(map(type, elements))
    if datatype == BYTES:
        _refuse_others(kinds, _TEXTS, "texts", datatype, place)
        array: NDArray[Any] = np.empty(len(elements), dtype=object)
        array[:] = elements
        return array
    if datatype == "BOOL":
        _refuse_others(kinds, {bool}, "true and false", datatype, place)
        return np.array(elements, dtype=bool)
    if datatype in _FRACTIONS:
        _refuse_others(kinds, _NUMBERS, "numbers", datatype, place)
        if str in kinds and not {element for element in elements if type(element) is str} <= _NOT_FINITE:
            why = f'{datatype} needs numbers; of texts there are "NaN", "Infinity" and "-Infinity"'
            raise place.refused("data", why, failures.TENSOR_DATATYPE_MISMATCH)
        return np.fromiter(elements, dtype=float, count=len(elements))
    _refuse_others(kinds, {int}, "whole numbers", datatype, place)
    try:
        return np.fromiter(elements, dtype=DTYPES[datatype], count=len(elements))
    except OverflowError:
        limits = np.iinfo(DTYPES[datatype])
        why = f"{datatype} holds {limits.min} to {limits.max} only"
        raise place.refused("data", why, failures.TENSOR_ELEMENT_INVALID) from None


def _refuse_others(
    kinds: set[type], allowed: set[type] | frozenset[type], wanted: str, datatype: str, place: _Place
) -> None:
    others = sorted(map(_word, kinds - allowed))
    if others:
        why = f"{datatype} needs {wanted}, not {others[0]}"
        raise place.refused("data", why, failures.TENSOR_DATATYPE_MISMATCH)


def _word(kind: type) -> str:
    return _WORDS.get(kind, kind.__name__)


def _texts(array: NDArray[Any], name: str) -> NDArray[Any]:
    decoded: NDArray[Any] = np.empty(array.size, dtype=object)
    try:
        decoded[:] = [element.decode() for element in array.ravel()]
    except UnicodeDecodeError:
        raise TensorError(
            f"tensor '{name}': an element is not UTF-8, which JSON can't hold: ask for base64 or binary data",
            failures.TENSOR_STRING_MALFORMED,
            context={"tensor": name},
        ) from None
    return decoded.reshape(array.shape)


def _with_words(array: NDArray[Any]) -> NDArray[Any]:
    mixed = array.astype(object)
    mixed[np.isnan(array)] = "NaN"
    mixed[np.isposinf(array)] = "Infinity"
    mixed[np.isneginf(array)] = "-Infinity"
    return mixed
