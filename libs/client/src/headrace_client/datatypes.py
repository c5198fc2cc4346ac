"""The datatypes of the Open Inference Protocol and their counterparts in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

BF16 = "BF16"
BYTES = "BYTES"

# Little-endian, as the protocol has them.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""All but BF16, which numpy lacks, and BYTES, whose elements have lengths of their own."""

ALL = (*DTYPES, BF16, BYTES)

_TEXT_KINDS = "SUT"  # Fixed-width bytes, fixed-width text, and numpy 2's text of any width.
_BY_KIND = {(dtype.kind, dtype.itemsize): name for name, dtype in DTYPES.items()}


def is_text(dtype: np.dtype[Any]) -> bool:
    """Whether numpy itself keeps texts or bytes in arrays of this type."""
    return dtype.kind in _TEXT_KINDS


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether this is the type of the package ml_dtypes; known by its name, so the package need not be there."""
    return dtype.name == "bfloat16" and dtype.itemsize == 2


def datatype_of(dtype: np.dtype[Any]) -> str | None:
    """The datatype that arrays of this type have without being told; None where there is none."""
    numeric = _BY_KIND.get((dtype.kind, dtype.itemsize))
    if numeric is not None:
        return numeric
    if is_text(dtype) or dtype.kind == "O":
        return BYTES
    return BF16 if is_bfloat16(dtype) else None
