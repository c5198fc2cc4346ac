"""Rows of the ledger out of what gateways send: cut and corrected, for a row that can't be written blocks a spool."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.quota.v1 import usage_pb2 as pb

STATUS_NAMES = {
    pb.REQUEST_STATUS_OK: "OK",
    pb.REQUEST_STATUS_FAILED: "FAILED",
    pb.REQUEST_STATUS_CANCELLED: "CANCELLED",
    pb.REQUEST_STATUS_ABANDONED: "ABANDONED",
}
_TEXT_CHARS_MAX = 512
_NUMBER_MAX = 1 << 53
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MAX = 253_402_300_799

Row = tuple[str | int | float | datetime | uuid.UUID, ...]


def ledger_row(record: pb.RequestRecord) -> Row:
    """A record as COPY takes it, in the order of copy_ledger.sql.

    Raises:
        ValueError: The identifier is no UUID; nothing else can be wrong with a row.
    """
    return (
        text(record.tenant_id),
        uuid.UUID(record.id),
        instant(record.admit_time),
        instant(record.end_time),
        text(record.subject),
        text(record.request_id),
        text(record.kind),
        text(record.model),
        text(record.version),
        text(record.runner_id),
        text(record.device_type),
        STATUS_NAMES.get(record.status, "FAILED"),
        text(record.error_reason),
        _microseconds(record.total_latency),
        _microseconds(record.queue_latency),
        _microseconds(record.execution_latency),
        _number(record.input_bytes),
        _number(record.output_bytes),
        _number(record.prompt_tokens),
        _number(record.completion_tokens),
        _amount(record.device_ms),
        min(max(record.attempts, 0), 1_000_000),
        max(1, _number(record.calls)),
    )


def text(value: str) -> str:
    """What PostgreSQL can hold of a text: no NUL, at most 512 characters."""
    return value.replace("\0", "")[:_TEXT_CHARS_MAX]


def instant(time: Timestamp) -> datetime:
    """An instant to the microsecond, kept within the years that PostgreSQL and Python share."""
    seconds = min(max(time.seconds, 0), _SECONDS_MAX)
    return _EPOCH + timedelta(seconds=seconds, microseconds=min(max(time.nanos, 0), 999_999_999) // 1_000)


def _microseconds(span: Duration) -> int:
    return _number(span.seconds * 1_000_000 + span.nanos // 1_000)


def _number(value: int) -> int:
    return min(max(value, 0), _NUMBER_MAX)


def _amount(value: float) -> float:
    return min(max(value, 0.0), float(_NUMBER_MAX)) if math.isfinite(value) else 0.0
