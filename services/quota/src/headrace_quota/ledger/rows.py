"""Rows of the ledger out of what gateways send: cut and corrected, for a row that can't be written blocks a spool."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord
from headrace.quota.v1 import usage_pb2 as pb

STATUS_NAMES = {
    pb.REQUEST_STATUS_OK: "OK",
    pb.REQUEST_STATUS_FAILED: "FAILED",
    pb.REQUEST_STATUS_CANCELLED: "CANCELLED",
    pb.REQUEST_STATUS_ABANDONED: "ABANDONED",
}
_TEXT_CHARS_MAX = 512
NUMBER_MAX = 1 << 53
ATTEMPTS_MAX = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MAX = 253_402_300_799
TIME_US_MAX = _SECONDS_MAX * 1_000_000

_AMOUNTS = ("input_bytes", "output_bytes", "prompt_tokens", "completion_tokens")
_SAME = (
    "tenant_id",
    "subject",
    "request_id",
    "kind",
    "model",
    "version",
    "runner_id",
    "device_type",
    "status",
    "error_reason",
    "device_ms",
)

Row = tuple[str | int | float, ...]


def ledger_row(call: CallRecord, *, row_id: str) -> Row:
    """A call as COPY takes it, in the order of copy_ledger.sql."""
    admitted_us = min(call.admit_time_us, TIME_US_MAX)
    total_us = min(call.total_us, NUMBER_MAX)
    return (
        text(call.tenant_id),
        row_id,
        admitted_us,
        min(admitted_us + total_us, TIME_US_MAX),
        text(call.subject),
        text(call.request_id),
        text(call.kind),
        text(call.model),
        text(call.version),
        text(call.runner_id),
        text(call.device_type),
        STATUS_NAMES.get(call.status, "FAILED"),
        text(call.error_reason),
        total_us,
        min(call.queue_us, NUMBER_MAX),
        min(call.execution_us, NUMBER_MAX),
        min(call.input_bytes, NUMBER_MAX),
        min(call.output_bytes, NUMBER_MAX),
        min(call.prompt_tokens, NUMBER_MAX),
        min(call.completion_tokens, NUMBER_MAX),
        amount(call.device_ms),
        min(call.attempts, ATTEMPTS_MAX),
        1,
    )


def former_row(record: pb.RequestRecord, *, row_id: str) -> Row:
    """A call as gateways of before tell it, and several that they have summed up."""
    call = CallRecord(
        admit_time_us=_microseconds(record.admit_time),
        total_us=_microseconds(record.total_latency),
        queue_us=_microseconds(record.queue_latency),
        execution_us=_microseconds(record.execution_latency),
        attempts=max(record.attempts, 0),
        **{name: max(getattr(record, name), 0) for name in _AMOUNTS},
        **{name: getattr(record, name) for name in _SAME},
    )
    *row, _ = ledger_row(call, row_id=row_id)
    row[3] = _microseconds(record.end_time)
    return (*row, max(1, min(record.calls, NUMBER_MAX)))


def row_id(spool_id: uuid.UUID, sequence: int) -> str:
    """The identifier of the row that a record of a spool becomes, the same each time: a UUID of its beginning."""
    beginning = str(spool_id)[:19]
    return f"{beginning}{0x8000 | sequence >> 48 & 0x3FFF:04x}-{sequence & 0xFFFF_FFFF_FFFF:012x}"


def text(value: str) -> str:
    """What PostgreSQL can hold of a text: no NUL, at most 512 characters."""
    return value if len(value) <= _TEXT_CHARS_MAX and "\0" not in value else value.replace("\0", "")[:_TEXT_CHARS_MAX]


def instant(time: Timestamp) -> datetime:
    """An instant to the microsecond, kept within the years that PostgreSQL and Python share."""
    seconds = min(max(time.seconds, 0), _SECONDS_MAX)
    return _EPOCH + timedelta(seconds=seconds, microseconds=min(max(time.nanos, 0), 999_999_999) // 1_000)


def _microseconds(time: Timestamp | Duration) -> int:
    """Of an instant or a span; nothing of what is negative."""
    seconds = min(max(time.seconds, 0), _SECONDS_MAX)
    return seconds * 1_000_000 + min(max(time.nanos, 0), 999_999_999) // 1_000


def amount(value: float) -> float:
    """What may be added up: a number, not negative."""
    return min(max(value, 0.0), float(NUMBER_MAX)) if math.isfinite(value) else 0.0
