"""Reads output tensors of the Open Inference Protocol and shows them."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from headrace_cli.tensor_input import NUMPY_TYPES
from headrace_common.errors import ValidationError
from inference import open_inference_pb2

_SHOWN_ELEMENTS = 8
_SHOWN_CLASSES = 3


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output tensor; BYTES elements are `bytes`, BF16 is widened to FP32."""

    name: str
    datatype: str
    array: NDArray[Any]


def read_outputs(response: open_inference_pb2.ModelInferResponse) -> list[Output]:
    """The outputs of a response, which a Headrace gateway sends as raw contents.

    Raises:
        ValidationError: the response carries another form, or its sizes don't match.
    """
    if len(response.raw_output_contents) != len(response.outputs):
        raise ValidationError("the answer does not carry its outputs as raw contents")
    return [
        Output(name=output.name, datatype=output.datatype, array=_array(output, raw))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    ]


def _array(output: Any, raw: bytes) -> NDArray[Any]:
    shape = tuple(output.shape)
    try:
        if output.datatype == "BYTES":
            elements = _elements(raw)
            array = np.empty(len(elements), dtype=object)
            array[:] = elements
            return array.reshape(shape)
        if output.datatype == "BF16":
            bits = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
            return bits.view(np.float32).reshape(shape)
        dtype = np.dtype(NUMPY_TYPES[output.datatype]).newbyteorder("<")
        return np.frombuffer(raw, dtype).reshape(shape)
    except (KeyError, ValueError, struct.error):
        raise ValidationError(f"output '{output.name}' of the answer can't be read") from None


def _elements(raw: bytes) -> list[bytes]:
    elements: list[bytes] = []
    position = 0
    while position < len(raw):
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if position + length > len(raw):
            raise ValueError("an element is longer than what is left")
        elements.append(raw[position : position + length])
        position += length
    return elements


def as_json(output: Output) -> dict[str, object]:
    """The output with nested lists; BYTES as text where they are UTF-8, else as base64."""
    data: object = output.array.tolist()
    if output.datatype == "BYTES":
        data = _texts(data)
    return {
        "name": output.name,
        "datatype": output.datatype,
        "shape": list(output.array.shape),
        "data": data,
    }


def _texts(data: object) -> object:
    if isinstance(data, list):
        return [_texts(element) for element in cast("list[object]", data)]
    element = cast("bytes", data)
    try:
        return element.decode()
    except UnicodeDecodeError:
        return base64.b64encode(element).decode()


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


def _element_text(element: Any) -> str:
    if isinstance(element, bytes):
        return repr(element.decode(errors="replace"))
    return f"{element:.6g}" if isinstance(element, float) else str(element)
