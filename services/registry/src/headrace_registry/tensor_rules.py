"""Tensors that a manifest holds itself: samples and initial states. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from headrace.registry.v1.manifest_pb2 import TensorSpec
from headrace_registry.manifest_faults import mismatch, wrong

ITEM_BYTES = MappingProxyType(
    {
        **dict.fromkeys(("BOOL", "INT8", "UINT8"), 1),
        **dict.fromkeys(("INT16", "UINT16", "FP16", "BF16"), 2),
        **dict.fromkeys(("INT32", "UINT32", "FP32"), 4),
        **dict.fromkeys(("INT64", "UINT64", "FP64"), 8),
        "BYTES": 0,
    }
)
"""Bytes of one element in raw form by datatype; 0 for BYTES, whose elements vary."""
DATATYPES = frozenset(ITEM_BYTES)
ELEMENTS_MAX = 1 << 24


def check_elements(field: str, shape: Sequence[int]) -> None:
    """Refuses a shape with a free or empty axis, or of more than 16 Mi elements.

    Raises:
        ModelError: MODEL_MANIFEST_INVALID (INVALID_ARGUMENT).
    """
    product = 1
    for axis, size in enumerate(shape):
        if size < 1:
            raise wrong(f"{field}[{axis}]", f"is {size}, it must be at least 1")
        product *= size
        if product > ELEMENTS_MAX:
            raise wrong(field, f"makes more than {ELEMENTS_MAX} elements")


def check_fits(field: str, shape: Sequence[int], spec: TensorSpec) -> None:
    """Refuses a shape that the model's tensor can't have.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT).
    """
    fits = len(shape) == len(spec.shape) and all(own in (-1, size) for size, own in zip(shape, spec.shape, strict=True))
    if not fits:
        raise mismatch(field, f"is {list(shape)}, the model's '{spec.name}' has {list(spec.shape)}")


def check_raw(field: str, raw: bytes, *, datatype: str, shape: Sequence[int]) -> None:
    """Refuses raw elements that are more or fewer than the shape takes.

    Raises:
        ModelError: MODEL_MANIFEST_MISMATCH (INVALID_ARGUMENT).
    """
    elements = 1
    for size in shape:
        elements *= size
    item_bytes = ITEM_BYTES[datatype]
    if item_bytes:
        if len(raw) != elements * item_bytes:
            raise mismatch(
                field, f"has {len(raw)} bytes, {datatype} of shape {list(shape)} takes {elements * item_bytes}"
            )
    elif _strings(raw) != elements:
        raise mismatch(
            field, f"must hold {elements} elements, each after its length as four bytes with the lowest first"
        )


def _strings(raw: bytes) -> int:
    """How many elements of BYTES lie one after another; -1 where the last one is cut off."""
    count = position = 0
    while position < len(raw):
        position += 4 + int.from_bytes(raw[position : position + 4], "little")
        count += 1
    return count if position == len(raw) else -1
