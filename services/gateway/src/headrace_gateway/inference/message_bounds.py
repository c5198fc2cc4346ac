"""What messages may hold, found out before they are parsed, and how to refuse the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from headrace_common import catalogue, wire
from headrace_common.errors import HeadraceError, RunnerError, ValidationError

# A parsed element takes some sixty bytes at least, so smaller messages can be parsed before they are counted.
_SMALL_BYTES = 64 << 10
_VARINT_BYTES_MAX = 10
_OTHER_FIELDS_MAX = 64


STREAM_ID_CHARS = 107
"""What of a stream's request id its calls get: with a slash and a u64 behind it they have at most 128 characters."""


class Repeated(NamedTuple):
    """A repeated field. Numbers may come packed, many in one field of the wire."""

    name: str
    packed: bool = False


def check_counts(message: bytes, fields: Mapping[int, Repeated], limit: int) -> None:
    """Refuses a large message with too many elements in one of its repeated fields, at a cost bounded by the limit.

    Args:
        message: A serialised message.
        fields: Its repeated fields by number.
        limit: Elements that each may have.

    Raises:
        ValidationError: FIELD_TOO_LONG, REQUEST_MALFORMED (INVALID_ARGUMENT).
    """
    if len(message) <= _SMALL_BYTES:
        return
    counts = dict.fromkeys(fields, 0)
    others = 0
    # Fields inside of groups are walked as well, but not seen here.
    fields_max = limit * len(fields) + _OTHER_FIELDS_MAX + 1
    for number, _, value in wire.fields(message, fields_max=fields_max):
        if number not in counts:
            others += 1
            if others > _OTHER_FIELDS_MAX:
                raise wire.malformed()
            continue
        field = fields[number]
        packed_bytes = len(value) if field.packed and isinstance(value, memoryview) else 0
        counts[number] += packed_bytes // _VARINT_BYTES_MAX or 1
        if counts[number] > limit:
            raise too_many(field.name, None, limit)


def too_many(field: str, count: int | None, limit: int) -> ValidationError:
    """FIELD_TOO_LONG; a count of None means that nobody went on counting."""
    return ValidationError(
        f"{field} has {count if count is not None else f'more than {limit}'} elements, at most {limit} are accepted",
        entry=catalogue.FIELD_TOO_LONG,
        context={"field": field, "limit": limit},
        field=field,
    )


def too_large(size: int, limit: int) -> ValidationError:
    """MESSAGE_TOO_LARGE."""
    return ValidationError(
        f"the message has {size} bytes, the server accepts {limit}",
        entry=catalogue.MESSAGE_TOO_LARGE,
        context={"limit": limit, "actual": size},
    )


def reader_too_slow(limit: int) -> HeadraceError:
    """READER_TOO_SLOW."""
    return RunnerError(
        f"the stream's answers wait to be read; with this one they would take more than {limit} bytes",
        entry=catalogue.READER_TOO_SLOW,
        context={"limit": limit},
    )


def read_too_late(what: str, limit_s: float) -> HeadraceError:
    """READER_TOO_SLOW, not for what it takes but for how long."""
    return RunnerError(
        f"{what} was not read within {limit_s:g} s",
        entry=catalogue.READER_TOO_SLOW,
        context={"limit": f"{limit_s:g} s"},
    )
