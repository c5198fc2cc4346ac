"""Turns what a person gives for an input tensor into bytes of the Open Inference Protocol."""

from __future__ import annotations

import io
import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from headrace_common.errors import ValidationError

NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
_NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True, kw_only=True)
class InputArgument:
    """One `--input`: the tensor's name (None: the model's only input) and where its value comes from."""

    name: str | None
    source: str


def parse_input_argument(text: str) -> InputArgument:
    """Split `name=source`; without a name the whole text is the source."""
    name, separator, source = text.partition("=")
    if separator and name and not name.lstrip().startswith(("[", "{", '"', "@", "-")):
        return InputArgument(name=name, source=source)
    return InputArgument(name=None, source=text)


def read_source(source: str) -> NDArray[Any] | Any:
    """The value of a source: `@file.npy`, `@file.json`, `-` (standard input) or a JSON literal.

    Raises:
        ValidationError: the file can't be read, or is neither NPY nor JSON.
    """
    if source == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    if source.startswith("@"):
        path = Path(source[1:])
        try:
            return _decoded(path.read_bytes(), str(path))
        except OSError as error:
            raise ValidationError(f"{path} can't be read: {error.strerror}") from None
    return _decoded(source.encode(), "the input")


def to_array(value: NDArray[Any] | Any, *, datatype: str, name: str) -> NDArray[Any]:
    """The value as an array of a datatype; FP32 for BF16, objects for BYTES.

    Raises:
        ValidationError: it is ragged, out of range, or of another kind.
    """
    if datatype == "BYTES":
        return _bytes_array(value, name)
    wanted: np.dtype[Any] = np.dtype(np.float32 if datatype == "BF16" else _numpy_type(datatype, name))
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValidationError(f"input '{name}': the rows have different lengths", field=name) from None
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise ValidationError(f"input '{name}': {datatype} needs numbers in rows of equal length", field=name)
    if array.dtype.kind == "f" and wanted.kind in "iub":
        raise ValidationError(f"input '{name}': fractions don't fit the datatype {datatype}", field=name)
    if (array.dtype.kind == "b") is not (wanted.kind == "b") and array.size:
        raise ValidationError(f"input '{name}': booleans and numbers don't mix with {datatype}", field=name)
    if wanted.kind in "iu" and array.size:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise ValidationError(f"input '{name}': {datatype} holds {limits.min} to {limits.max} only", field=name)
    with np.errstate(over="ignore"):
        return array.astype(wanted)


def to_raw(array: NDArray[Any], *, datatype: str) -> bytes:
    """The array as `raw_input_contents`: little-endian in C order; BYTES elements with a 4-byte length before each."""
    if datatype == "BYTES":
        elements = cast("list[bytes]", array.ravel().tolist())
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    if datatype == "BF16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        # Round to nearest, ties to even, as hardware does; NaN keeps its upper bits.
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        return np.where(np.isnan(array), bits, rounded).astype(np.uint32).__rshift__(16).astype("<u2").tobytes()
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()


def _decoded(content: bytes, origin: str) -> NDArray[Any] | Any:
    if content.startswith(_NPY_MAGIC):
        try:
            return np.load(io.BytesIO(content), allow_pickle=False)
        except ValueError:
            raise ValidationError(f"{origin} is not an NPY file of numbers or texts") from None
    try:
        return json.loads(content)
    except (UnicodeDecodeError, ValueError):
        raise ValidationError(f"{origin} is neither JSON nor an NPY file") from None


def _numpy_type(datatype: str, name: str) -> Any:
    try:
        return NUMPY_TYPES[datatype]
    except KeyError:
        raise ValidationError(f"input '{name}' has the datatype {datatype}, which is not known here") from None


def _bytes_array(value: Any, name: str) -> NDArray[Any]:
    array: NDArray[Any] = np.array(value, dtype=object)
    elements = [element.encode() if isinstance(element, str) else element for element in array.ravel().tolist()]
    if not all(isinstance(element, bytes) for element in elements):
        raise ValidationError(f"input '{name}': BYTES needs texts in rows of equal length", field=name)
    result = np.empty(len(elements), dtype=object)
    result[:] = elements
    return result.reshape(array.shape)
