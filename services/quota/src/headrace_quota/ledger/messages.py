"""Rows of the ledger and the audit log as the contracts tell them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from headrace.quota.v1 import audit_pb2, usage_pb2
from headrace_quota.ledger.rows import STATUS_NAMES
from headrace_quota.messages import timestamp

Row = Mapping[str, Any]
_STATUS_TO_WIRE = {name: status for status, name in STATUS_NAMES.items()}
_SUMS = (
    "model",
    "version",
    "calls",
    "failed_calls",
    "input_bytes",
    "output_bytes",
    "prompt_tokens",
    "completion_tokens",
    "device_ms",
    "latency_ms_sum",
    "latency_ms_max",
)
_SAME = (
    "tenant_id",
    "subject",
    "request_id",
    "model",
    "version",
    "runner_id",
    "device_type",
    "error_reason",
    "input_bytes",
    "output_bytes",
    "prompt_tokens",
    "completion_tokens",
    "device_ms",
    "attempts",
    "calls",
    "kind",
)


def request_message(row: Row) -> usage_pb2.RequestRecord:
    """A row of the ledger."""
    return usage_pb2.RequestRecord(
        id=str(row["id"]),
        status=_STATUS_TO_WIRE[row["status"]],
        admit_time=timestamp(row["admitted_at"]),
        end_time=timestamp(row["ended_at"]),
        total_latency=_duration(row["total_us"]),
        queue_latency=_duration(row["queue_us"]),
        execution_latency=_duration(row["execution_us"]),
        **{name: row[name] for name in _SAME},
    )


def sum_message(row: Row) -> usage_pb2.UsageSum:
    """A sum of hours."""
    return usage_pb2.UsageSum(start_time=timestamp(row["start_time"]), **{name: row[name] for name in _SUMS})


def runner_event_message(row: Row) -> usage_pb2.RunnerEvent:
    """Something that happened to a runner."""
    return usage_pb2.RunnerEvent(
        runner_id=row["runner_id"],
        gateway_id=row["gateway_id"],
        event=row["event"],
        device_type=row["device_type"],
        detail=row["detail"],
        event_time=timestamp(row["event_at"]),
    )


def audit_message(row: Row) -> audit_pb2.AuditEntry:
    """An entry of the audit log."""
    return audit_pb2.AuditEntry(
        tenant_id=row["tenant_id"],
        sequence=row["sequence"],
        event_time=timestamp(row["event_at"]),
        actor=row["actor"],
        method=row["method"],
        resource=row["resource"],
        request_json=row["request_json"],
        outcome=row["outcome"],
        request_id=row["request_id"],
        gateway_id=row["gateway_id"],
        previous_sha256=bytes(row["previous_sha256"]),
        sha256=bytes(row["sha256"]),
    )


def _duration(microseconds: int) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(microseconds=microseconds))
    return message
