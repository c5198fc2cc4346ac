"""Records of a spool as bytes: each is a field of `IngestRequest`, so that any run of them is a message to quota. Pure.

A record is a field's tag, its length and its content, a message, and after it another field with the content's CRC-32.
A call's record is packed in one go; what many have in common, such as whose they are, is encoded once and copied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord, IngestRequest

TEXT_BYTES_MAX = 255
SUBJECT_BYTES_MAX = 1_100
"""What is longer is cut."""

_VARINT, _FIXED64, _LEN, _FIXED32 = 0, 1, 2, 5
_numbers = {name: field.number for name, field in CallRecord.DESCRIPTOR.fields_by_name.items()}


def _tag(number: int, wire_type: int) -> int:
    return number << 3 | wire_type


# Number after number with its tag before it; see CallRecord, whose order this is.
_ADMITTED = struct.Struct("<" + "BQ" * 5 + "Bd")
_ENDED = struct.Struct("<" + "BQ" * 10 + "BdBIBB")
_ADMISSION = struct.Struct("<xQ")
_CHECKSUM = struct.Struct("<BI")
_pack_admitted, _pack_ended, _pack_checksum = _ADMITTED.pack, _ENDED.pack, _CHECKSUM.pack

CALL_FIELD = _tag(IngestRequest.CALLS_FIELD_NUMBER, _LEN)
EVENT_FIELD = _tag(IngestRequest.RECORDS_FIELD_NUMBER, _LEN)
_CHECKSUM_TAG = _tag(IngestRequest.CHECKSUM_FIELD_NUMBER, _FIXED32)
_HEAD_BYTES = 3
# Tags and lengths, always so many bytes, of calls by their length.
_HEADS = [bytes((CALL_FIELD, length & 0x7F | 0x80, length >> 7)) for length in range(4_096)]
# Likewise of request ids; one that is empty has no field.
_REQUEST_ID_HEADS = [
    b"" if not length else bytes((0x72, length)) if length < 0x80 else bytes((0x72, length & 0x7F | 0x80, length >> 7))
    for length in range(TEXT_BYTES_MAX + 1)
]


class Labels(NamedTuple):
    """Whose call it is and what it is for."""

    tenant_id: str
    subject: str
    model: str
    version: str
    kind: str
    summed: bool = False


class Estimate(NamedTuple):
    """What a call is expected to use, and is charged if nobody sees its end."""

    input_bytes: int
    prompt_tokens: int
    completion_tokens: int
    device_ms: float


def admitted(admission: int, admitted_us: int, estimate: Estimate, texts: bytes) -> bytes:
    """The part of a CallRecord that is known when a call is admitted."""
    input_bytes, prompt_tokens, completion_tokens, device_ms = estimate
    return (
        _pack_admitted(
            0x11, admission, 0x19, admitted_us, 0x39, input_bytes, 0x49, prompt_tokens, 0x51, completion_tokens,
            0x59, device_ms,
        )
        + texts
    )  # fmt: skip


def ended(
    sequence: int,
    admission: int,
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
    texts: bytes,
) -> bytes:
    """A CallRecord as it is written; `texts` are those of labels, request id, place and reason."""
    body = (
        _pack_ended(
            0x09, sequence, 0x11, admission, 0x19, admitted_us, 0x21, total_us, 0x29, queue_us, 0x31, execution_us,
            0x39, input_bytes, 0x41, output_bytes, 0x49, prompt_tokens, 0x51, completion_tokens, 0x59, device_ms,
            0x65, attempts, 0x68, status,
        )
        + texts
    )  # fmt: skip
    return _HEADS[len(body)] + body + _pack_checksum(_CHECKSUM_TAG, crc32(body))


def admission_of(body: bytes) -> int:
    """The number in what `admitted` has made. Raises struct.error where it is none."""
    return int(_ADMISSION.unpack_from(body)[0])


def labels_text(labels: Labels) -> bytes:
    """Labels as fields of a CallRecord."""
    *texts, summed = labels
    named = zip(("tenant_id", "subject", "model", "version", "kind"), texts, strict=True)
    fields = b"".join(text(name, value) for name, value in named)
    return fields + _varint(_tag(_numbers["summed"], _VARINT)) + b"\x01" if summed else fields


def place_text(runner_id: str, device_type: str) -> bytes:
    """Where a call was, as fields of a CallRecord."""
    return text("runner_id", runner_id) + text("device_type", device_type)


def text(name: str, value: str) -> bytes:
    """A text as a field of a CallRecord, cut to what it may have."""
    most = SUBJECT_BYTES_MAX if name == "subject" else TEXT_BYTES_MAX
    encoded = value.encode()
    if len(encoded) > most:
        # Not in the middle of a character.
        encoded = encoded[:most].decode(errors="ignore").encode()
    return _varint(_tag(_numbers[name], _LEN)) + _varint(len(encoded)) + encoded if encoded else b""


def request_id_text(request_id: str) -> bytes:
    """A request id as a field of a CallRecord."""
    encoded = request_id.encode()
    if len(encoded) > TEXT_BYTES_MAX:
        return text("request_id", request_id)
    return _REQUEST_ID_HEADS[len(encoded)] + encoded


def renumbered(record: bytes, sequence: int) -> bytes:
    """What `ended` has made, with another sequence."""
    body = record[_HEAD_BYTES : -_CHECKSUM.size]
    return framed_call(body[:1] + sequence.to_bytes(8, "little") + body[9:])


def framed_call(body: bytes) -> bytes:
    """A call's record as it is written."""
    return _HEADS[len(body)] + body + _pack_checksum(_CHECKSUM_TAG, crc32(body))


def framed_event(body: bytes) -> bytes:
    """A SpoolRecord as it is written."""
    head = bytes((EVENT_FIELD,)) + _varint(len(body))
    return head + body + _pack_checksum(_CHECKSUM_TAG, crc32(body))


def begins(written: memoryview) -> bool:
    """Whether a file holds records as they are written here, or none yet."""
    return written[0] in (0, CALL_FIELD, EVENT_FIELD)


def bodies(written: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Where each record of a file ends, its field and content; up to the first that is not whole."""
    at, size = 0, len(written)
    while at < size and (field := written[at]) in (CALL_FIELD, EVENT_FIELD):
        at += 1
        length = shift = 0
        while at < size and written[at] & 0x80 and shift < 14:
            length |= (written[at] & 0x7F) << shift
            shift += 7
            at += 1
        if at >= size or written[at] & 0x80:
            return
        length |= written[at] << shift
        body_at, at = at + 1, at + 1 + length
        if at + _CHECKSUM.size > size:
            return
        body = written[body_at:at]
        if _CHECKSUM.unpack_from(written, at) != (_CHECKSUM_TAG, crc32(body)):
            return
        at += _CHECKSUM.size
        yield at, field, body


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
