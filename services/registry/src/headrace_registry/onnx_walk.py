"""Looks through an ONNX file without parsing it as a model: is it one, and does it point outside of itself? Pure.

Source: the message and field numbers of onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from enum import Enum

from headrace_common import wire
from headrace_common.errors import ValidationError
from headrace_registry.refusal import Fault, Refusal

DEPTH_MAX = 100
"""Deepest nesting of messages, that of protobuf's own parsers."""


class _Kind(Enum):
    MODEL = "ModelProto"
    GRAPH = "GraphProto"
    NODE = "NodeProto"
    ATTRIBUTE = "AttributeProto"
    TENSOR = "TensorProto"
    SPARSE = "SparseTensorProto"
    TRAINING = "TrainingInfoProto"
    FUNCTION = "FunctionProto"


_CHILDREN: dict[_Kind, dict[int, _Kind]] = {
    _Kind.MODEL: {7: _Kind.GRAPH, 20: _Kind.TRAINING, 25: _Kind.FUNCTION},
    _Kind.GRAPH: {1: _Kind.NODE, 5: _Kind.TENSOR, 15: _Kind.SPARSE},
    _Kind.NODE: {5: _Kind.ATTRIBUTE},
    _Kind.ATTRIBUTE: {
        5: _Kind.TENSOR,
        6: _Kind.GRAPH,
        10: _Kind.TENSOR,
        11: _Kind.GRAPH,
        22: _Kind.SPARSE,
        23: _Kind.SPARSE,
    },
    _Kind.TENSOR: {},
    _Kind.SPARSE: {1: _Kind.TENSOR, 2: _Kind.TENSOR},
    _Kind.TRAINING: {1: _Kind.GRAPH, 2: _Kind.GRAPH},
    _Kind.FUNCTION: {7: _Kind.NODE, 11: _Kind.ATTRIBUTE},
}
_IR_VERSION = 1
_GRAPH = 7
_TENSOR_NAME = 8
_EXTERNAL_DATA = 13
_DATA_LOCATION = 14
_SUBJECT_CHARS = 128


def check_onnx(file: memoryview) -> None:
    """Walks all graphs, with no recursion and no copy. O(fields); weights cost nothing, they are skipped whole.

    Raises:
        Refusal: NOT_ONNX, EXTERNAL_DATA or TOO_DEEP.
    """
    seen: set[int] = set()
    pending: list[tuple[_Kind, memoryview, int]] = [(_Kind.MODEL, file, 1)]
    try:
        while pending:
            kind, message, depth = pending.pop()
            if depth > DEPTH_MAX:
                raise Refusal(Fault.TOO_DEEP)
            children = _CHILDREN[kind]
            for number, _, value in wire.fields(message):
                if kind is _Kind.MODEL:
                    seen.add(number)
                if kind is _Kind.TENSOR and _points_outside(number, value):
                    raise Refusal(Fault.EXTERNAL_DATA, _name_of(message))
                child = children.get(number)
                if child is not None:
                    if isinstance(value, int):
                        raise Refusal(Fault.NOT_ONNX)
                    pending.append((child, value, depth + 1))
    except ValidationError:
        raise Refusal(Fault.NOT_ONNX) from None
    if not {_IR_VERSION, _GRAPH} <= seen:
        raise Refusal(Fault.NOT_ONNX)


def _points_outside(number: int, value: int | memoryview) -> bool:
    return number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)


def _name_of(tensor: memoryview) -> str:
    for number, _, value in wire.fields(tensor):
        if number == _TENSOR_NAME and not isinstance(value, int):
            return bytes(value[:_SUBJECT_CHARS]).decode("utf-8", "replace")
    return ""
