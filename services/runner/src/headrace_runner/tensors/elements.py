"""Turns the elements of a checked input into an array. Runs off the event loop: it costs time by the byte."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_common import catalogue, wire
from headrace_common.errors import TensorError
from headrace_runner.tensors.datatypes import DATATYPES, Array, Datatype
from headrace_runner.tensors.infer_request import RequestTensor
from headrace_runner.tensors.varints import decode_varints

_CONTENTS_NAMES = {
    1: "bool_contents",
    2: "int_contents",
    3: "int64_contents",
    4: "uint_contents",
    5: "uint64_contents",
    6: "fp32_contents",
    7: "fp64_contents",
    8: "bytes_contents",
}


def to_array(tensor: RequestTensor) -> Array:
    """Decodes an input that its model's signature has accepted.

    Raw contents of fixed-size datatypes become a read-only, possibly unaligned view of the received bytes; BOOL, BYTES
    and the typed form are copied.

    Raises:
        TensorError: TENSOR_BYTES_MISMATCH, TENSOR_STRING_MALFORMED, TENSOR_CONTENT_TYPE_MISMATCH or
            TENSOR_ELEMENT_INVALID (all INVALID_ARGUMENT).
        ValidationError: REQUEST_MALFORMED (INVALID_ARGUMENT).
    """
    datatype = DATATYPES[tensor.datatype]
    elements = math.prod(tensor.shape)
    flat: Array
    if tensor.raw is None:
        flat = _from_contents(tensor, datatype, elements)
    elif not datatype.item_bytes:
        flat = _split_strings(tensor, tensor.raw, elements)
    elif datatype.name == "BOOL":
        flat = np.frombuffer(tensor.raw, dtype=np.uint8) != 0
    else:
        flat = np.frombuffer(tensor.raw, dtype=datatype.dtype)
    return flat.reshape(tensor.shape)


def _split_strings(tensor: RequestTensor, raw: memoryview, elements: int) -> Array:
    array = np.empty(elements, dtype=object)
    position = 0
    end = len(raw)
    for index in range(elements):
        start = position + 4
        position = start + int.from_bytes(raw[position:start], "little")
        if position > end or start > end:
            raise TensorError(
                f"element {index} of input '{tensor.name}' ends beyond the {end} bytes of the tensor",
                entry=catalogue.TENSOR_STRING_MALFORMED,
                context={"tensor": tensor.name},
            )
        array[index] = bytes(raw[start:position])
    if position != end:
        raise TensorError(
            f"input '{tensor.name}' has {end - position} bytes after its {elements} elements",
            entry=catalogue.TENSOR_STRING_MALFORMED,
            context={"tensor": tensor.name},
        )
    return array


def _from_contents(tensor: RequestTensor, datatype: Datatype, elements: int) -> Array:
    """Reads the list of `InferTensorContents` that belongs to the datatype; the other lists must be empty."""
    runs: list[npt.NDArray[Any]] = []
    strings: list[bytes] = []
    # Every element may come as a field of its own.
    fields_max = elements + wire.REQUEST_FIELDS_MAX
    for part in tensor.contents:
        for number, kind, value in wire.fields(part, fields_max=fields_max):
            if number != datatype.contents_field:
                if number in _CONTENTS_NAMES and not (isinstance(value, memoryview) and not value):
                    raise _wrong_list(tensor, datatype, number)
            elif number == 8:
                if isinstance(value, int):
                    raise wire.malformed()
                strings.append(bytes(value))
            else:
                runs.append(_read_run(number, kind, value))
    if datatype.name == "BYTES":
        flat: Array = np.empty(len(strings), dtype=object)
        flat[:] = strings
    else:
        flat = np.concatenate(runs) if runs else np.empty(0, dtype=datatype.dtype)
    if flat.size != elements:
        raise TensorError(
            f"input '{tensor.name}' has {flat.size} elements, the shape {list(tensor.shape)} takes {elements}",
            entry=catalogue.TENSOR_BYTES_MISMATCH,
            context={"tensor": tensor.name, "expected": elements, "actual": int(flat.size)},
        )
    return _narrow(tensor, datatype, flat)


def _read_run(number: int, kind: int, value: int | memoryview) -> npt.NDArray[Any]:
    """One packed run, or one unpacked element, of a numeric list."""
    if number in (6, 7):
        dtype = np.dtype("<f4" if number == 6 else "<f8")
        if isinstance(value, int):
            if kind != (wire.FIXED32 if number == 6 else wire.FIXED64):
                raise wire.malformed()
            return np.frombuffer(value.to_bytes(dtype.itemsize, "little"), dtype=dtype)
        if len(value) % dtype.itemsize:
            raise wire.malformed()
        return np.frombuffer(value, dtype=dtype)
    if isinstance(value, int):
        if kind != wire.VARINT:
            raise wire.malformed()
        wide = np.array([value], dtype=np.uint64)
    else:
        wide = decode_varints(value)
    if number == 1:
        return wide != 0
    if number == 2:
        return wide.astype(np.uint32).view(np.int32)
    if number == 3:
        return wide.view(np.int64)
    return wide.astype(np.uint32) if number == 4 else wide


def _narrow(tensor: RequestTensor, datatype: Datatype, flat: Array) -> Array:
    """Converts int32 and uint32 lists to the 8 and 16 bit datatypes that travel in them."""
    if flat.dtype == datatype.dtype:
        return flat
    limits = np.iinfo(datatype.dtype)
    if flat.size and (flat.min() < limits.min or flat.max() > limits.max):
        raise TensorError(
            f"input '{tensor.name}' has elements outside {limits.min} to {limits.max}, the range of {datatype.name}",
            entry=catalogue.TENSOR_ELEMENT_INVALID,
            context={"tensor": tensor.name, "datatype": datatype.name},
        )
    return flat.astype(datatype.dtype)


def _wrong_list(tensor: RequestTensor, datatype: Datatype, number: int) -> TensorError:
    return TensorError(
        f"input '{tensor.name}' is {datatype.name}, whose elements belong in "
        f"{_CONTENTS_NAMES[datatype.contents_field]}, not in {_CONTENTS_NAMES[number]}",
        entry=catalogue.TENSOR_CONTENT_TYPE_MISMATCH,
        context={"tensor": tensor.name, "datatype": datatype.name},
    )
