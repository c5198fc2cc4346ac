"""Writes a `ModelInferResponse` with one copy of each tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace_common import wire
from headrace_runner.tensors.datatypes import DATATYPES, Array


class ResponseWriter:
    """Writes the answers of one model version.

    Args:
        model_name: Name of the model.
        model_version: Number of the version.
    """

    def __init__(self, *, model_name: str, model_version: str) -> None:
        self._prefix = wire.encode_len_field(1, model_name.encode()) + wire.encode_len_field(2, model_version.encode())

    def write(self, request_id: str, outputs: Sequence[tuple[str, str, Array]]) -> bytes:
        """Serialises an answer. Costs time by the byte: call it off the event loop.

        Args:
            request_id: Identifier of the request, empty when it has none.
            outputs: Name, datatype and elements of each output.
        """
        parts: list[bytes | memoryview] = [self._prefix]
        if request_id:
            parts.append(wire.encode_len_field(3, request_id.encode()))
        raws: list[bytes | memoryview] = []
        for name, datatype, array in outputs:
            shape = b"".join(map(wire.varint, array.shape))
            header = wire.encode_len_field(1, name.encode()) + wire.encode_len_field(2, datatype.encode())
            if shape:
                header += wire.encode_len_field(3, shape)
            parts.append(wire.encode_len_field(5, header))
            elements = _raw_elements(datatype, array)
            raws += (wire.len_field_header(6, len(elements)), elements)
        return b"".join(parts + raws)


def _raw_elements(datatype: str, array: Array) -> bytes | memoryview:
    if datatype == "BYTES":
        return _join_strings(array)
    if not array.size:
        return b""
    # No copy where the array is contiguous and little-endian already, which is what backends give.
    plain = np.ascontiguousarray(array, dtype=DATATYPES[datatype].dtype)
    return plain.reshape(-1).view(np.uint8).data


def _join_strings(array: Array) -> bytes:
    parts: list[bytes] = []
    for element in array.reshape(-1):
        value = element if isinstance(element, bytes) else str(element).encode()
        parts += (len(value).to_bytes(4, "little"), value)
    return b"".join(parts)
