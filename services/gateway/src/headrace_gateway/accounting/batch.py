"""What quota is sent at once. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from headrace.quota.internal.v1.usage_ingest_pb2 import IngestRequest
from headrace.quota.v1.usage_pb2 import RequestRecord
from headrace_gateway.accounting.records import Ended, Kind, Labels, Texts

RECORDS_MAX = 1_000
PORTION_EVENTS = 64
"""How many are added before it is looked at again whether there is room."""
EVENTS_MAX = 20_000
"""Ends and other events that a batch is made of; those of aggregated calls become few records."""
_US = 1_000_000

_Key: TypeAlias = tuple[Texts, int, int, str]


@dataclass(slots=True)
class _Sum:
    """Calls of one second that are one row."""

    labels: Labels
    status: int
    reason: str
    sequence: int
    place: Texts | None
    admitted_us: int
    ended_us: int
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


class Batch:
    """Rows and events, gathered in the order of the spool.

    Rows of calls that are kept by the second are summed up here: the batch is committed whole, so a row is never added
    to later, and what comes after it for the same second is another row.

    Args:
        spool_id: UUID of the spool, which the rows' identifiers are made of.
        gateway_id: Process that wrote it.

    Attributes:
        through: Sequence of the last event.
        events: How many there are.
    """

    def __init__(self, *, spool_id: str, gateway_id: str) -> None:
        self.request = IngestRequest(spool_id=spool_id, gateway_id=gateway_id)
        self.through = 0
        self.events = 0
        self._id_prefix = spool_id[:19]
        self._sums: dict[_Key, _Sum] = {}

    @property
    def full(self) -> bool:
        """Whether no more should be added."""
        records = len(self.request.records) + len(self._sums)
        return records > RECORDS_MAX - PORTION_EVENTS or self.events >= EVENTS_MAX

    def add_ended(self, ended: Ended, texts: Mapping[int, Texts]) -> None:
        """Adds a call's end; `texts` are those of its file."""
        self.through = ended.sequence
        self.events += 1
        labels = Labels(*texts[ended.labels])
        place = texts[ended.place] if ended.place else None
        reason = texts[ended.reason][0] if ended.reason else ""
        if labels.aggregated:
            self._sum_up(ended, labels, place, reason)
            return
        row = self._row(ended.sequence, labels, place)
        row.request_id = ended.request_id
        row.status = ended.status  # pyright: ignore[reportAttributeAccessIssue] - written by us
        row.error_reason = reason
        row.calls = 1
        _set_times(row, ended.admitted_us, ended.admitted_us + ended.total_us)
        _set_latencies(row, ended.total_us, ended.queue_us, ended.execution_us)
        _set_amounts(row, ended)

    def add_event(self, kind: Kind, sequence: int, message: bytes) -> None:
        """Adds anything else that happened."""
        self.through = sequence
        self.events += 1
        record = self.request.records.add(sequence=sequence)
        if kind is Kind.RUNNER:
            record.runner.MergeFromString(message)
        elif kind is Kind.AUDIT:
            record.audit.MergeFromString(message)
        else:
            record.key_use.MergeFromString(message)

    def finished(self) -> IngestRequest:
        """The message, its records in the order of their sequences."""
        if self._sums:
            for sums in self._sums.values():
                self._add_sums(sums)
            self._sums.clear()
            self.request.records.sort(key=lambda record: record.sequence)
        return self.request

    def _sum_up(self, ended: Ended, labels: Labels, place: Texts | None, reason: str) -> None:
        key = (labels, ended.admitted_us // _US, ended.status, reason)
        ended_us = ended.admitted_us + ended.total_us
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = _Sum(labels, ended.status, reason, 0, place, ended.admitted_us, ended_us)
        sums.sequence = ended.sequence
        sums.calls += 1
        if sums.place != place:
            sums.place = None
        if ended.admitted_us < sums.admitted_us:
            sums.admitted_us = ended.admitted_us
        if ended_us > sums.ended_us:
            sums.ended_us = ended_us
        sums.total_us += ended.total_us
        sums.queue_us += ended.queue_us
        sums.execution_us += ended.execution_us
        sums.input_bytes += ended.input_bytes
        sums.output_bytes += ended.output_bytes
        sums.prompt_tokens += ended.prompt_tokens
        sums.completion_tokens += ended.completion_tokens
        sums.device_ms += ended.device_ms
        sums.attempts += ended.attempts

    def _add_sums(self, sums: _Sum) -> None:
        row = self._row(sums.sequence, sums.labels, sums.place)
        row.status = sums.status  # pyright: ignore[reportAttributeAccessIssue] - written by us
        row.error_reason = sums.reason
        row.calls = calls = sums.calls
        _set_times(row, sums.admitted_us, sums.ended_us)
        _set_latencies(row, sums.total_us // calls, sums.queue_us // calls, sums.execution_us // calls)
        _set_amounts(row, sums)

    def _row(self, sequence: int, labels: Labels, place: Texts | None) -> RequestRecord:
        record = self.request.records.add()
        record.sequence = sequence
        row = record.request
        row.id = f"{self._id_prefix}{0x8000 | sequence >> 48 & 0x3FFF:04x}-{sequence & 0xFFFF_FFFF_FFFF:012x}"
        row.tenant_id, row.subject, row.model, row.version, row.kind, _ = labels
        if place is not None:
            row.runner_id, row.device_type = place
        return row


def _set_times(row: RequestRecord, admitted_us: int, ended_us: int) -> None:
    for into, time_us in ((row.admit_time, admitted_us), (row.end_time, ended_us)):
        into.seconds, rest = divmod(time_us, _US)
        into.nanos = rest * 1_000


def _set_latencies(row: RequestRecord, total_us: int, queue_us: int, execution_us: int) -> None:
    for into, span_us in (
        (row.total_latency, total_us),
        (row.queue_latency, queue_us),
        (row.execution_latency, execution_us),
    ):
        into.seconds, rest = divmod(span_us, _US)
        into.nanos = rest * 1_000


def _set_amounts(row: RequestRecord, of: Ended | _Sum) -> None:
    row.input_bytes = of.input_bytes
    row.output_bytes = of.output_bytes
    row.prompt_tokens = of.prompt_tokens
    row.completion_tokens = of.completion_tokens
    row.device_ms = of.device_ms
    row.attempts = of.attempts
