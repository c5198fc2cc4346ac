"""Writes a `ModelInferResponse`: small ones whole, large tensors beside it without a copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace_common import wire
from headrace_common.lanes import PayloadParts
from headrace_runner.tensors.classification import best_classes
from headrace_runner.tensors.contents import as_bytes, typed_contents
from headrace_runner.tensors.datatypes import DATATYPES, Array
from headrace_runner.tensors.output_form import OutputForm

_WRITTEN_MAX = 256
_CUT_BYTES_MAX = 1 << 16
# Larger answers travel in chunks, into which they are copied from where they lie.
_JOINED_BYTES_MAX = 256 << 10

Output = tuple[str, str, Array]
"""Name, datatype and elements of an output."""


class ResponseWriter:
    """Writes the answers of one model version.

    Args:
        model_name: Name of the model.
        model_version: Number of the version.
        labels: Names of classes by index, for callers who ask for classes instead of numbers.
        batched: Whether the first axis of every output counts rows.
    """

    def __init__(
        self, *, model_name: str, model_version: str, labels: Sequence[str] = (), batched: bool = False
    ) -> None:
        self._written: dict[tuple[str, str, tuple[int, ...]], bytes] = {}
        self._labels = tuple(labels)
        self._batched = batched
        self._prefix = wire.encode_len_field(1, model_name.encode()) + wire.encode_len_field(2, model_version.encode())

    def write(self, request_id: str, outputs: Sequence[Output], form: OutputForm | None = None) -> bytes | PayloadParts:
        """Serialises an answer. Costs time by the byte: call it off the event loop.

        A large raw answer consists of views of the outputs, which nobody may write to any more.

        Args:
            request_id: Identifier of the request, empty when it has none.
            outputs: What the model gave.
            form: How the caller wants it; None for all raw.
        """
        parts: list[bytes | memoryview] = [self._prefix]
        if request_id:
            parts.append(wire.encode_len_field(3, request_id.encode()))
        if form is not None:
            outputs = [self._classified(output, form) for output in outputs]
            if form.typed:
                return b"".join((*parts, *map(_typed_output, outputs)))
        raws: list[bytes | memoryview] = []
        for name, datatype, array in outputs:
            parts.append(self._described(name, datatype, array.shape))
            elements = _raw_elements(datatype, array)
            raws += (wire.len_field_header(6, len(elements)), elements)
        parts += raws
        return PayloadParts(parts) if sum(map(len, parts)) > _JOINED_BYTES_MAX else b"".join(parts)

    def split(
        self, outputs: Sequence[Output], parts: Sequence[tuple[str, int, OutputForm | None]]
    ) -> list[bytes | PayloadParts]:
        """Serialises the answers of requests that were executed together.

        Args:
            outputs: What the model gave for all of them, the rows of one request after those of another.
            parts: Identifier, number of rows and form of each request.
        """
        answers: list[bytes | PayloadParts] = []
        start = 0
        # Small elements of fixed size are cut from bytes, which costs less than from an array.
        plain = [_plain_bytes(datatype, array) for _, datatype, array in outputs]
        for request_id, rows, form in parts:
            stop = start + rows
            if form is None and not request_id and None not in plain:
                answers.append(self._cut(outputs, plain, start, rows))
            else:
                cut = [(name, datatype, array[start:stop]) for name, datatype, array in outputs]
                answers.append(self.write(request_id, cut, form))
            start = stop
        return answers

    def _cut(
        self, outputs: Sequence[Output], plain: Sequence[tuple[bytes, int] | None], start: int, rows: int
    ) -> bytes:
        heads: list[bytes] = [self._prefix]
        raws: list[bytes] = []
        for (name, datatype, array), source in zip(outputs, plain, strict=True):
            assert source is not None, "checked by the caller"
            data, row_bytes = source
            heads.append(self._described(name, datatype, (rows, *array.shape[1:])))
            raws += (wire.len_field_header(6, rows * row_bytes), data[start * row_bytes : (start + rows) * row_bytes])
        return b"".join(heads + raws)

    def _described(self, name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
        """An output without its elements; models give few shapes, so what was written once is kept."""
        key = (name, datatype, shape)
        written = self._written.get(key)
        if written is None:
            if len(self._written) >= _WRITTEN_MAX:
                self._written.clear()
            written = self._written[key] = wire.encode_len_field(5, _header(name, datatype, shape))
        return written

    def _classified(self, output: Output, form: OutputForm) -> Output:
        name, _, array = output
        count = form.classes.get(name)
        if count is None:
            return output
        return name, "BYTES", best_classes(array, count, self._labels, batched=self._batched)


def _header(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    sizes = b"".join(map(wire.varint, shape))
    header = wire.encode_len_field(1, name.encode()) + wire.encode_len_field(2, datatype.encode())
    return header + wire.encode_len_field(3, sizes) if sizes else header


def _plain_bytes(datatype: str, array: Array) -> tuple[bytes, int] | None:
    """All elements and the bytes of one row, where they are small and of fixed size."""
    size = DATATYPES[datatype].item_bytes
    if not size or array.size * size > _CUT_BYTES_MAX or not len(array):
        return None
    data = np.ascontiguousarray(array, dtype=DATATYPES[datatype].dtype).tobytes()
    return data, len(data) // len(array)


def _typed_output(output: Output) -> bytes:
    name, datatype, array = output
    contents = wire.encode_len_field(5, typed_contents(datatype, array))
    return wire.encode_len_field(5, _header(name, datatype, array.shape) + contents)


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
        value = as_bytes(element)
        parts += (len(value).to_bytes(4, "little"), value)
    return b"".join(parts)
