"""Reads and checks the requests of one model, the same ones faster."""

from __future__ import annotations

from typing import NamedTuple

from headrace_common import wire
from headrace_runner.tensors.infer_request import InferRequest, read_infer_request
from headrace_runner.tensors.signature import Signature

_RAW_CONTENTS = 7
_KNOWN_MAX = 64
_PREFIX_BYTES_MAX = 4_096


class _Known(NamedTuple):
    """A request that was read: its bytes but for the elements, and what it said.

    Attributes:
        literals: Bytes at offsets: everything before the elements, then the header of each input's elements.
        raws: Where the elements of each input begin and end.
    """

    literals: tuple[tuple[int, bytes], ...]
    raws: tuple[tuple[int, int], ...]
    request: InferRequest
    outputs: tuple[str, ...]


class RequestReader:
    """Turns a payload into a checked request.

    A client sends the same request again and again with other elements. One that has the length and, but for the
    elements, the bytes of a request that was read before says the same, and takes a comparison instead of a walk.
    Only requests whose raw elements come last, as all encoders write them, are remembered, and few of them.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._known: dict[int, _Known] = {}

    def read(self, payload: wire.Buffer) -> tuple[InferRequest, tuple[str, ...]]:
        """The request, whose views keep `payload` alive, and the names of the outputs to send back.

        Raises:
            TensorError, ValidationError: What `read_infer_request` and `Signature.check` raise.
        """
        if not isinstance(payload, bytes):
            return self._read(payload)
        known = self._known.get(len(payload))
        if known is not None and all(payload.startswith(literal, start) for start, literal in known.literals):
            view = memoryview(payload)
            request = known.request
            inputs = tuple(
                tensor._replace(raw=view[start:stop])
                for tensor, (start, stop) in zip(request.inputs, known.raws, strict=True)
            )
            return request._replace(inputs=inputs), known.outputs
        request, outputs = self._read(payload)
        self._remember(payload, request, outputs)
        return request, outputs

    def _read(self, payload: wire.Buffer) -> tuple[InferRequest, tuple[str, ...]]:
        request = read_infer_request(payload)
        return request, self._signature.check(request)

    def _remember(self, payload: bytes, request: InferRequest, outputs: tuple[str, ...]) -> None:
        sizes = [len(tensor.raw) for tensor in request.inputs if tensor.raw is not None]
        headers = [wire.len_field_header(_RAW_CONTENTS, size) for size in sizes]
        start = len(payload) - sum(sizes) - sum(map(len, headers))
        if not sizes or not 0 <= start <= _PREFIX_BYTES_MAX or request.parameters:
            return
        literals = [(0, payload[:start])]
        raws: list[tuple[int, int]] = []
        for header, size in zip(headers, sizes, strict=True):
            if not payload.startswith(header, start):
                return
            literals.append((start, header))
            start += len(header)
            raws.append((start, start + size))
            start += size
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        # Without its elements, so that a remembered request keeps no payload alive.
        inputs = tuple(tensor._replace(raw=None) for tensor in request.inputs)
        self._known[len(payload)] = _Known(tuple(literals), tuple(raws), request._replace(inputs=inputs), outputs)
