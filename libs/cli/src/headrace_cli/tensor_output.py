"""Output tensors as JSON and as lines for people."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

_SHOWN_ELEMENTS = 8
_SHOWN_CLASSES = 3


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output tensor; BYTES elements are `bytes`, BF16 is widened to FP32."""

    name: str
    datatype: str
    array: NDArray[Any]


def as_json(output: Output) -> dict[str, object]:
    """The output with nested lists.

    BYTES are texts where all are UTF-8; else all are base64, and `encoding` says so. Numbers that JSON lacks are the
    texts `NaN`, `Infinity` and `-Infinity`, as protobuf has them.
    """
    shown: dict[str, object] = {
        "name": output.name,
        "datatype": output.datatype,
        "shape": list(output.array.shape),
    }
    data: object = output.array.tolist()
    if output.datatype == "BYTES":
        try:
            data = _each(data, bytes.decode)
        except UnicodeDecodeError:
            shown["encoding"] = "base64"
            data = _each(data, _base64)
    elif output.array.dtype.kind == "f" and not np.isfinite(output.array).all():
        data = _each(data, _number)
    return shown | {"data": data}


def preview(output: Output) -> str:
    """The first elements in one line."""
    flat = output.array.ravel()
    shown = [_element_text(element) for element in cast("list[Any]", flat[:_SHOWN_ELEMENTS].tolist())]
    more = f" … {flat.size - len(shown)} more" if flat.size > len(shown) else ""
    return ", ".join(shown) + more


def top_classes(output: Output, labels: list[str]) -> list[list[tuple[str, float]]]:
    """For each row the most probable classes; empty when the tensor's last axis is not that of the labels."""
    array = output.array
    if not labels or array.ndim == 0 or array.shape[-1] != len(labels) or array.dtype.kind != "f":
        return []
    rows = array.reshape(-1, len(labels))
    return [[(labels[index], float(row[index])) for index in np.argsort(row)[::-1][:_SHOWN_CLASSES]] for row in rows]


def _each(data: object, change: Any) -> object:
    if isinstance(data, list):
        return [_each(element, change) for element in cast("list[object]", data)]
    return change(data)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _element_text(element: Any) -> str:
    if isinstance(element, bytes):
        return repr(element.decode(errors="replace"))
    return f"{element:.6g}" if isinstance(element, float) else str(element)
