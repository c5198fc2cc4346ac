"""Chunk frames written and read by hand, so that a large payload is copied once on each side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from headrace_common.errors import ValidationError
from headrace_common.lanes.violation import LaneViolation
from headrace_common.wire import LEN, VARINT, encode_varint, fields

_ID, _DATA, _LAST = 1, 2, 3


class Chunk(NamedTuple):
    """A part of a message: the call's id, the next bytes (a view into the received frame), whether it is the last."""

    id: int
    data: memoryview
    last: bool


def encode_chunk(frame_field: int, chunk: Chunk) -> bytes:
    """A frame of `headrace.runner.internal.v1` that holds one chunk.

    Args:
        frame_field: Number of the field `chunks` in the frame's message.
        chunk: The part to send; its bytes are copied once, into the frame.
    """
    head = b"\x08" + encode_varint(chunk.id) + b"\x12" + encode_varint(len(chunk.data))
    tail = b"\x18\x01" if chunk.last else b""
    size = len(head) + len(chunk.data) + len(tail)
    return b"".join((encode_varint(frame_field << 3 | LEN), encode_varint(size), head, chunk.data, tail))


def decode_chunks(frame_field: int, frame: bytes) -> Iterator[Chunk]:
    """The chunks of a received bulk frame, as views into it.

    Raises:
        LaneViolation: The frame is not a frame, or holds anything but chunks.
    """
    try:
        for number, wire_type, value in fields(frame):
            if number != frame_field or wire_type != LEN:
                raise LaneViolation("the bulk lane carries chunks only")
            yield _decode(memoryview(value))  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        raise LaneViolation("malformed bulk frame") from error


def _decode(message: memoryview) -> Chunk:
    call_id = 0
    data = memoryview(b"")
    last = False
    for number, wire_type, value in fields(message):
        if number == _ID and wire_type == VARINT:
            call_id = int(value)  # pyright: ignore[reportArgumentType]
        elif number == _DATA and wire_type == LEN:
            data = memoryview(value)  # pyright: ignore[reportArgumentType]
        elif number == _LAST and wire_type == VARINT:
            last = bool(value)
    return Chunk(call_id, data, last)
