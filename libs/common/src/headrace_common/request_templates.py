"""Recognises ModelInferRequests that say the same as an earlier one with other elements."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from headrace_common import wire
from headrace_common.errors import ValidationError

T = TypeVar("T")

_RAW_CONTENTS = 7
_KNOWN_MAX = 64
_PREFIX_BYTES_MAX = 4_096

Spans = tuple[tuple[int, int], ...]
"""Where the elements of each input begin and end."""


class _Known(NamedTuple, Generic[T]):
    literals: tuple[tuple[int, bytes], ...]
    spans: Spans
    meaning: T


class RequestTemplates(Generic[T]):
    """What was found out about requests, by everything in them but the elements of their inputs.

    A client sends the same request again and again with other elements. One that has the length and, but for the
    elements, the bytes of a request that was looked at before says the same, and a comparison costs less than a walk.
    Only requests whose raw elements come last, as all encoders write them, are remembered, and few of them.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known[T]] = {}

    def find(self, payload: bytes) -> tuple[T, Spans] | None:
        """What was remembered of requests like this one, and where its elements are."""
        known = self._known.get(len(payload))
        if known is None:
            return None
        for start, literal in known.literals:
            if not payload.startswith(literal, start):
                return None
        return known.meaning, known.spans

    def remember(self, payload: bytes, raw_sizes: list[int], meaning: T) -> None:
        """Remembers what a well-formed request means.

        Args:
            payload: The request.
            raw_sizes: Bytes of each of its `raw_input_contents`, in order.
            meaning: What depends on nothing but the rest of it.
        """
        headers = [wire.len_field_header(_RAW_CONTENTS, size) for size in raw_sizes]
        start = len(payload) - sum(raw_sizes) - sum(map(len, headers))
        if not raw_sizes or not 0 <= start <= _PREFIX_BYTES_MAX or not _has_no_elements(payload[:start]):
            return
        literals: list[tuple[int, bytes]] = []
        spans: list[tuple[int, int]] = []
        literal_start = 0
        for header, size in zip(headers, raw_sizes, strict=True):
            if not payload.startswith(header, start):
                return
            begin = start + len(header)
            literals.append((literal_start, payload[literal_start:begin]))
            start = literal_start = begin + size
            spans.append((begin, start))
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[len(payload)] = _Known(tuple(literals), tuple(spans), meaning)


def _has_no_elements(beginning: bytes) -> bool:
    """Whether it is whole fields, none of them elements: else what looks like elements is the end of another field."""
    try:
        return all(number != _RAW_CONTENTS for number, _, _ in wire.fields(beginning))
    except ValidationError:
        return False
