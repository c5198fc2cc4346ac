"""Writes the elements of an output in the typed form, a serialised `InferTensorContents`."""

from __future__ import annotations

import numpy as np

from headrace_common import wire
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.varints import encode_varints


def typed_contents(datatype: str, array: Array) -> bytes:
    """The elements in row-major order in the list that belongs to the datatype, which must have one.

    Costs time by the element: call it off the event loop.
    """
    number = DATATYPES[datatype].contents_field
    if datatype == "BYTES":
        return b"".join(wire.encode_len_field(number, as_bytes(element)) for element in array.reshape(-1))
    plain = np.ascontiguousarray(array, dtype=DATATYPES[datatype].dtype).reshape(-1)
    if not plain.size:
        return b""
    if plain.dtype.kind in "bf":
        packed = plain.tobytes()
    else:
        # Negative numbers take their 64-bit two's complement, whatever the width of the list.
        wide = plain.astype(np.int64).view(np.uint64) if plain.dtype.kind == "i" else plain.astype(np.uint64)
        packed = encode_varints(wide)
    return wire.encode_len_field(number, packed)


def as_bytes(element: object) -> bytes:
    """An element of a BYTES tensor as backends give it: bytes as they are, anything else as its text in UTF-8."""
    return element if isinstance(element, bytes) else str(element).encode()
