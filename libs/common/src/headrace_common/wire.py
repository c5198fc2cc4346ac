"""Walks and writes protobuf's wire format without parsing: fields come out as integers and views, nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator

from headrace_common import catalogue
from headrace_common.errors import ValidationError

VARINT = 0
FIXED64 = 1
LENGTH_DELIMITED = 2
START_GROUP = 3
END_GROUP = 4
FIXED32 = 5

_FIELD_NUMBER_MAX = (1 << 29) - 1
_UINT64_MAX = (1 << 64) - 1
_UINT32_MAX = (1 << 32) - 1
_LENGTH_MAX = (1 << 31) - 1
_SHORT_BYTES_MAX = 5
_GROUP_DEPTH_MAX = 64
_UNBOUNDED = (1 << 63) - 1

REQUEST_FIELDS_MAX = 8_192
"""Fields that one message of a request may have, unknown ones included. Walking takes time per field, not per byte."""

Buffer = bytes | bytearray | memoryview
Field = tuple[int, int, int | memoryview]


def malformed() -> ValidationError:
    """The one answer to bytes that aren't protobuf: fixed text, so that nothing of the input is echoed."""
    return ValidationError("the request is not a valid protobuf message", entry=catalogue.REQUEST_MALFORMED)


def read_varint(buffer: Buffer, position: int) -> tuple[int, int]:
    """Reads one unsigned varint of at most 64 bits.

    Returns:
        The value (bits above 64 dropped, as protobuf does) and the position after it.

    Raises:
        ValidationError: REQUEST_MALFORMED (INVALID_ARGUMENT): the buffer ends first, or it has more than ten bytes.
    """
    end = len(buffer)
    value = 0
    shift = 0
    while position < end:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _UINT64_MAX, position
        shift += 7
        if shift > 63:
            break
    raise malformed()


def fields(buffer: Buffer, *, fields_max: int | None = None, groups: bool = True) -> Iterator[Field]:
    """Walks the top-level fields in wire order.

    Args:
        buffer: One serialised message.
        fields_max: How many fields it may have, those inside of groups included; None is for trusted input only, or
            for a caller who counts them.
        groups: Whether groups are skipped; otherwise they are no protobuf.

    Yields:
        `(number, wire type, value)`: an int for VARINT (unsigned), FIXED32 and FIXED64 (little-endian, unsigned), a
        view of the payload for LENGTH_DELIMITED. Views share the buffer's memory.

    Raises:
        ValidationError: REQUEST_MALFORMED (INVALID_ARGUMENT), as soon as the walk meets the damage or one field too
            many; fields before it have been yielded by then.
    """
    left = _UNBOUNDED if fields_max is None else fields_max
    view = buffer if isinstance(buffer, memoryview) else memoryview(buffer)
    position = 0
    end = len(view)
    while position < end:
        left -= 1
        tag = view[position]
        position += 1
        if tag >= 0x80:
            tag, position = _read_short(view, position - 1, _UINT32_MAX)
        number = tag >> 3
        kind = tag & 7
        if left < 0 or not 0 < number <= _FIELD_NUMBER_MAX:
            raise malformed()
        if kind == LENGTH_DELIMITED:
            if position >= end:
                raise malformed()
            length = view[position]
            position += 1
            if length >= 0x80:
                length, position = _read_short(view, position - 1, _LENGTH_MAX)
            stop = position + length
            if stop > end:
                raise malformed()
            yield number, kind, view[position:stop]
            position = stop
        elif kind == VARINT:
            value, position = read_varint(view, position)
            yield number, kind, value
        elif kind in (FIXED64, FIXED32):
            stop = position + (8 if kind == FIXED64 else 4)
            if stop > end:
                raise malformed()
            yield number, kind, int.from_bytes(view[position:stop], "little")
            position = stop
        elif kind == START_GROUP and groups:
            position, left = _skip_group(view, position, number, left)
        else:
            raise malformed()


def text(value: int | memoryview) -> str:
    """A string field's value.

    Raises:
        ValidationError: REQUEST_MALFORMED (INVALID_ARGUMENT): not a length-delimited field, or not UTF-8.
    """
    if isinstance(value, int):
        raise malformed()
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise malformed() from None


def signed(value: int) -> int:
    """The int32 or int64 that an unsigned varint value stands for."""
    return value - (1 << 64) if value >> 63 else value


def varint(value: int) -> bytes:
    """Encodes an unsigned varint; negative int32/int64 values take ten bytes, as protobuf writes them."""
    if value < 0:
        value &= _UINT64_MAX
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_varint_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def encode_len_field(number: int, payload: Buffer) -> bytes:
    """One length-delimited field, payload copied in; to avoid that, send `len_field_header` and the payload."""
    return b"".join((len_field_header(number, len(payload)), payload))


def len_field_header(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited field, to be followed by exactly `length` bytes."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(length)


def _read_short(view: memoryview, position: int, value_max: int) -> tuple[int, int]:
    """A tag or a length: at most five bytes, however they are padded, like protobuf's own parsers demand."""
    value, stop = read_varint(view, position)
    if value > value_max or stop - position > _SHORT_BYTES_MAX:
        raise malformed()
    return value, stop


def _skip_group(view: memoryview, position: int, number: int, left: int) -> tuple[int, int]:
    """Skips a (deprecated) group iteratively, so that nesting can't exhaust the stack; inner fields use up `left`."""
    open_groups = [number]
    end = len(view)
    while open_groups:
        tag, position = _read_short(view, position, _UINT32_MAX)
        inner, kind = tag >> 3, tag & 7
        if not 0 < inner <= _FIELD_NUMBER_MAX:
            raise malformed()
        if kind == END_GROUP:
            if inner != open_groups.pop():
                raise malformed()
            continue
        left -= 1
        if kind == START_GROUP:
            if len(open_groups) >= _GROUP_DEPTH_MAX:
                raise malformed()
            open_groups.append(inner)
        elif kind == VARINT:
            _, position = read_varint(view, position)
        elif kind == LENGTH_DELIMITED:
            length, position = _read_short(view, position, _LENGTH_MAX)
            position += length
        elif kind in (FIXED64, FIXED32):
            position += 8 if kind == FIXED64 else 4
        else:
            raise malformed()
        if left < 0 or position > end:
            raise malformed()
    return position, left
