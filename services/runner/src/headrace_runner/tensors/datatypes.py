"""The datatypes of the Open Inference Protocol and how each lies in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""A tensor. BYTES tensors are object arrays of `bytes`; BF16 tensors are uint16 arrays of the raw bit patterns."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype.

    Attributes:
        name: Its name in the protocol.
        dtype: NumPy's type of one element, little-endian; object for BYTES.
        item_bytes: Size of one element in raw form; 0 for BYTES, whose elements vary.
        contents_field: Field number in `InferTensorContents`; 0 where only the raw form exists.
    """

    name: str
    dtype: np.dtype[Any]
    item_bytes: int
    contents_field: int


def _table() -> Mapping[str, Datatype]:
    rows = (
        ("BOOL", "?", 1),
        ("INT8", "<i1", 2),
        ("INT16", "<i2", 2),
        ("INT32", "<i4", 2),
        ("INT64", "<i8", 3),
        ("UINT8", "<u1", 4),
        ("UINT16", "<u2", 4),
        ("UINT32", "<u4", 4),
        ("UINT64", "<u8", 5),
        ("FP16", "<f2", 0),
        ("FP32", "<f4", 6),
        ("FP64", "<f8", 7),
        ("BF16", "<u2", 0),
    )
    table = {name: Datatype(name, np.dtype(code), np.dtype(code).itemsize, field) for name, code, field in rows}
    table["BYTES"] = Datatype("BYTES", np.dtype(object), 0, 8)
    return MappingProxyType(table)


DATATYPES = _table()
"""Every datatype by name."""
