"""Calls of packed streams that become one row for each second, where the tenant's plan says so."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TypeAlias

from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord
from headrace_quota.ledger.rows import ATTEMPTS_MAX, NUMBER_MAX, TIME_US_MAX, Row, amount, ledger_row, row_id

_US = 1_000_000

_Key: TypeAlias = tuple[str, str, str, str, str, int, str, int]


@dataclass(slots=True)
class _Sum:
    """Calls alike of one second."""

    first: CallRecord
    sequence: int
    admitted_us: int
    ended_us: int
    one_place: bool = True
    calls: int = 0
    total_us: int = 0
    queue_us: int = 0
    execution_us: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    device_ms: float = 0.0
    attempts: int = 0


class SummedCalls:
    """Adds up calls of one batch, which is committed whole, so that no row is ever added to later."""

    def __init__(self) -> None:
        self._sums: dict[_Key, _Sum] = {}

    def add(self, call: CallRecord) -> None:
        """Adds a call to the row of its second."""
        admitted_us = call.admit_time_us
        ended_us = admitted_us + call.total_us
        key = (
            call.tenant_id,
            call.subject,
            call.model,
            call.version,
            call.kind,
            call.status,
            call.error_reason,
            admitted_us // _US,
        )
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = _Sum(call, call.sequence, admitted_us, ended_us)
        sums.sequence = call.sequence
        sums.calls += 1
        if sums.one_place:
            sums.one_place = sums.first.runner_id == call.runner_id
        sums.admitted_us = min(sums.admitted_us, admitted_us)
        sums.ended_us = max(sums.ended_us, ended_us)
        sums.total_us += call.total_us
        sums.queue_us += call.queue_us
        sums.execution_us += call.execution_us
        sums.input_bytes += call.input_bytes
        sums.output_bytes += call.output_bytes
        sums.prompt_tokens += call.prompt_tokens
        sums.completion_tokens += call.completion_tokens
        sums.device_ms += amount(call.device_ms)
        sums.attempts += call.attempts

    def rows(self, spool_id: uuid.UUID) -> list[Row]:
        """A row for each sum: amounts are sums, latencies means."""
        return [self._row(sums, spool_id) for sums in self._sums.values()]

    @staticmethod
    def _row(sums: _Sum, spool_id: uuid.UUID) -> Row:
        whole, calls = CallRecord(), sums.calls
        whole.CopyFrom(sums.first)
        whole.request_id = ""
        whole.admit_time_us = sums.admitted_us
        whole.total_us = min(sums.total_us // calls, NUMBER_MAX)
        whole.queue_us = min(sums.queue_us // calls, NUMBER_MAX)
        whole.execution_us = min(sums.execution_us // calls, NUMBER_MAX)
        whole.input_bytes = min(sums.input_bytes, NUMBER_MAX)
        whole.output_bytes = min(sums.output_bytes, NUMBER_MAX)
        whole.prompt_tokens = min(sums.prompt_tokens, NUMBER_MAX)
        whole.completion_tokens = min(sums.completion_tokens, NUMBER_MAX)
        whole.device_ms = sums.device_ms
        whole.attempts = min(sums.attempts, ATTEMPTS_MAX)
        if not sums.one_place:
            whole.runner_id = whole.device_type = ""
        *row, _ = ledger_row(whole, row_id=row_id(spool_id, sums.sequence))
        row[3] = min(sums.ended_us, TIME_US_MAX)
        return (*row, calls)
