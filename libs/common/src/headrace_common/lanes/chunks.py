"""Chunk frames written and read by hand, so that a large payload is copied once on each side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from headrace_common import wire
from headrace_common.errors import ValidationError
from headrace_common.lanes.violation import LaneViolation

_ID, _DATA, _LAST = 1, 2, 3


class Chunk(NamedTuple):
    """A part of a message: the call's id, the next bytes, whether it is the last part."""

    id: int
    data: memoryview
    last: bool


def encode_chunk(frame_field: int, chunk: Chunk) -> bytes:
    """A frame of `headrace.runner.internal.v1` that holds one chunk, whose bytes are copied once, into the frame.

    Args:
        frame_field: Number of the field `chunks` in the frame's message.
        chunk: The part to send.
    """
    head = wire.encode_varint_field(_ID, chunk.id) + wire.len_field_header(_DATA, len(chunk.data))
    tail = wire.encode_varint_field(_LAST, 1) if chunk.last else b""
    size = len(head) + len(chunk.data) + len(tail)
    return b"".join((wire.len_field_header(frame_field, size), head, chunk.data, tail))


def decode_chunks(frame_field: int, frame: bytes) -> Iterator[Chunk]:
    """The chunks of a received bulk frame, as views into it.

    Raises:
        LaneViolation: The frame is not a frame, or holds anything but chunks.
    """
    try:
        for number, _, value in wire.fields(frame):
            if number != frame_field or isinstance(value, int):
                raise LaneViolation("the bulk lane carries chunks only")
            yield _decode(value)
    except ValidationError as error:
        raise LaneViolation("malformed bulk frame") from error


def _decode(message: memoryview) -> Chunk:
    call_id = 0
    data = memoryview(b"")
    last = False
    for number, _, value in wire.fields(message):
        if isinstance(value, memoryview):
            data = value if number == _DATA else data
        elif number == _ID:
            call_id = value
        elif number == _LAST:
            last = bool(value)
    return Chunk(call_id, data, last)
