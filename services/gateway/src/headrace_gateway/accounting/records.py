"""Records of a spool as bytes. Pure.

A record is its length and CRC-32, each a little-endian number of 32 bits, and a body: kind, number, and what the kind
has. Texts that many records share are in records of their own, once in each segment, and others name them by number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from mmap import mmap
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

HEADER_BYTES = 8
TEXT_BYTES_MAX = 1_024
"""Of each text; what is longer is cut."""
REQUEST_ID_BYTES_MAX = 256

_HEADER = struct.Struct("<II")
_PREFIX = struct.Struct("<BQ")
_ADMITTED = struct.Struct("<BQIqQQQd")
_ENDED = struct.Struct("<BQQIIIBqQQQQQQQdH")
_LABELS_AT = _PREFIX.size
_LABELS = struct.Struct("<I")
_LENGTH = struct.Struct("<H")

_pack_header = _HEADER.pack
_pack_admitted = _ADMITTED.pack
_pack_ended = _ENDED.pack

Buffer: TypeAlias = "bytes | memoryview | mmap"
Texts: TypeAlias = tuple[str, ...]


class Kind(IntEnum):
    """What a record says."""

    TEXTS = 1
    ADMITTED = 2
    ENDED = 3
    RUNNER = 4
    AUDIT = 5
    KEY_USE = 6


_ADMITTED_KIND, _ENDED_KIND = int(Kind.ADMITTED), int(Kind.ENDED)


class Labels(NamedTuple):
    """Whose call it is and what it is for. `aggregated` is how its row is kept: alone ("") or summed up ("1")."""

    tenant_id: str
    subject: str
    model: str
    version: str
    kind: str
    aggregated: str = ""


class Estimate(NamedTuple):
    """What a call is expected to use, and is charged if nobody sees its end."""

    input_bytes: int
    prompt_tokens: int
    completion_tokens: int
    device_ms: float


class Admitted(NamedTuple):
    """A call was admitted. `admitted_us` is Unix time in microseconds, `labels` the number of its texts."""

    sequence: int
    labels: int
    admitted_us: int
    estimate: Estimate
    request_id: str


class Ended(NamedTuple):
    """A call has ended. It repeats what was known at its admission, so that it stands for itself.

    Attributes:
        call: The sequence of its admission.
        labels: Number of its texts; likewise `place` (runner and device type) and `reason`, 0 for none.
        status: A `headrace.quota.v1.RequestStatus`.
        admitted_us: Unix time in microseconds.
        total_us: From there to the end; `queue_us` and `execution_us` are the runner's parts of it.
        attempts: How often it was sent to a runner.
    """

    sequence: int
    call: int
    labels: int
    place: int
    reason: int
    status: int
    admitted_us: int
    total_us: int
    queue_us: int
    execution_us: int
    input_bytes: int
    output_bytes: int
    prompt_tokens: int
    completion_tokens: int
    device_ms: float
    attempts: int
    request_id: str


def frame(body: bytes) -> bytes:
    """A body as it is written."""
    return _pack_header(len(body), crc32(body)) + body


def admitted(sequence: int, labels: int, admitted_us: int, estimate: Estimate, request_id: bytes) -> bytes:
    """The body of an admission."""
    return _pack_admitted(_ADMITTED_KIND, sequence, labels, admitted_us, *estimate) + request_id


def relabelled(body: bytes, labels: int) -> bytes:
    """An admission for a segment where its texts have another number."""
    return body[:_LABELS_AT] + _LABELS.pack(labels) + body[_LABELS_AT + _LABELS.size :]


def ended(
    sequence: int,
    call: int,
    labels: int,
    place: int,
    reason: int,
    status: int,
    admitted_us: int,
    total_us: int,
    queue_us: int,
    execution_us: int,
    input_bytes: int,
    output_bytes: int,
    prompt_tokens: int,
    completion_tokens: int,
    device_ms: float,
    attempts: int,
    request_id: bytes,
) -> bytes:
    """The body of an end; see `Ended`."""
    return (
        _pack_ended(
            _ENDED_KIND,
            sequence,
            call,
            labels,
            place,
            reason,
            status,
            admitted_us,
            total_us,
            queue_us,
            execution_us,
            input_bytes,
            output_bytes,
            prompt_tokens,
            completion_tokens,
            device_ms,
            attempts,
        )
        + request_id
    )


def texts(number: int, values: Texts) -> bytes:
    """The body of texts, which other records of the segment name by their number."""
    encoded = [value.encode()[:TEXT_BYTES_MAX] for value in values]
    return _PREFIX.pack(Kind.TEXTS, number) + b"".join(_LENGTH.pack(len(value)) + value for value in encoded)


def event(kind: Kind, sequence: int, message: bytes) -> bytes:
    """The body of anything else that quota is told: a serialised message."""
    return _PREFIX.pack(kind, sequence) + message


def bodies(written: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The bodies of a segment's records and where each ends, up to the first that is not whole."""
    at, size = 0, len(written)
    while at + HEADER_BYTES + _PREFIX.size <= size:
        length, checksum = _HEADER.unpack_from(written, at)
        end = at + HEADER_BYTES + length
        if length < _PREFIX.size or end > size:
            return
        body = written[at + HEADER_BYTES : end]
        if crc32(body) != checksum:
            return
        yield end, body
        at = end


def body_at(written: Buffer, at: int) -> tuple[int, int]:
    """Where the body of a record begins and ends that is known to be whole."""
    begin = at + HEADER_BYTES
    return begin, begin + int(_HEADER.unpack_from(written, at)[0])


def prefix(written: Buffer, at: int = 0) -> tuple[int, int]:
    """Kind and number of the body that begins there."""
    kind, number = _PREFIX.unpack_from(written, at)
    return kind, number


def read_admitted(body: Buffer) -> Admitted:
    """An admission. Raises struct.error where it is none."""
    _, sequence, labels, admitted_us, *estimate = _ADMITTED.unpack_from(body)
    return Admitted(sequence, labels, admitted_us, Estimate(*estimate), _text(body[_ADMITTED.size :]))


def read_ended(body: Buffer, at: int, end: int) -> Ended:
    """The end whose body is there. Raises struct.error where it is none."""
    values: Any = _ENDED.unpack_from(body, at)
    return Ended._make((*values[1:], _text(body[at + _ENDED.size : end])))


def read_texts(body: Buffer) -> Texts:
    """Texts. Raises struct.error where they are none."""
    values: list[str] = []
    at = _PREFIX.size
    while at < len(body):
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        values.append(_text(body[at : at + length]))
        at += length
    return tuple(values)


def read_event(body: Buffer) -> bytes:
    """The serialised message of an event."""
    return bytes(body[_PREFIX.size :])


def _text(encoded: Buffer) -> str:
    # What was cut may have been cut in a character.
    return bytes(encoded).decode(errors="ignore")
