"""A batch of a spool, sorted by what it becomes in the database."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime

from headrace.quota.internal.v1 import usage_ingest_pb2 as pb
from headrace.quota.v1 import audit_pb2
from headrace_common.errors import ValidationError
from headrace_quota.ledger.audit_chain import AuditEntry
from headrace_quota.ledger.rows import Row, former_row, instant, ledger_row, row_id, text
from headrace_quota.ledger.summed_calls import SummedCalls

RECORDS_MAX = 4_096
_JSON_CHARS_MAX = 4_096


@dataclass(frozen=True, slots=True)
class RunnerEvent:
    """Something that happened to a runner."""

    runner_id: str
    gateway_id: str
    event: str
    device_type: str
    detail: str
    event_at: datetime


@dataclass(frozen=True, slots=True)
class KeyUse:
    """When a key was last used."""

    tenant_id: str
    key_id: str
    used_at: datetime


@dataclass(slots=True, kw_only=True)
class SpoolBatch:
    """Records of one spool that follow each other.

    Attributes:
        through: Number of the last record, also where it became nothing.
        closes: Whether the spool's writer has ended and nothing follows.
    """

    spool_id: uuid.UUID
    gateway_id: str
    through: int = 0
    closes: bool = False
    rows: list[Row] = field(default_factory=list[Row])
    sums: SummedCalls = field(default_factory=SummedCalls)
    runners: list[RunnerEvent] = field(default_factory=list[RunnerEvent])
    audit: list[AuditEntry] = field(default_factory=list[AuditEntry])
    key_uses: list[KeyUse] = field(default_factory=list[KeyUse])

    def add(self, record: pb.SpoolRecord) -> None:
        """Takes the next record."""
        match record.WhichOneof("event"):
            case "request":
                self.rows.append(former_row(record.request, row_id=row_id(self.spool_id, record.sequence)))
            case "runner":
                told = record.runner
                self.runners.append(
                    RunnerEvent(
                        text(told.runner_id),
                        text(told.gateway_id) or self.gateway_id,
                        text(told.event),
                        text(told.device_type),
                        text(told.detail),
                        instant(told.event_time),
                    )
                )
            case "audit":
                self.audit.append(_audit_entry(record.audit, self.gateway_id))
            case "key_use":
                use = record.key_use
                self.key_uses.append(KeyUse(text(use.tenant_id), text(use.key_id), instant(use.use_time)))
            case _:
                # Of a newer gateway: nothing that this version could keep.
                pass
        self.through = max(self.through, record.sequence)

    def add_call(self, call: pb.CallRecord) -> None:
        """Takes the next call."""
        if call.summed:
            self.sums.add(call)
        else:
            self.rows.append(ledger_row(call, row_id=row_id(self.spool_id, call.sequence)))
        self.through = max(self.through, call.sequence)

    def all_rows(self) -> list[Row]:
        """Of calls alone and of those that are summed up: no batch after this one adds to them."""
        return [*self.rows, *self.sums.rows(self.spool_id)]


def spool_of(request: pb.IngestRequest) -> SpoolBatch:
    """The batch without its records.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT): no UUID, no gateway, too many records or not in order.
    """
    try:
        spool_id = uuid.UUID(request.spool_id)
    except ValueError:
        raise _invalid("spool_id", "is no UUID") from None
    if not 1 <= len(request.gateway_id) <= 200:
        raise _invalid("gateway_id", "must have 1 to 200 characters")
    if len(request.records) + len(request.calls) > RECORDS_MAX:
        raise _invalid("records", f"may be {RECORDS_MAX} at most, with the calls")
    for name, records in (("records", request.records), ("calls", request.calls)):
        before = 0
        for record in records:
            if not before < record.sequence < 1 << 63:
                raise _invalid(f"{name}.sequence", "must rise")
            before = record.sequence
    return SpoolBatch(spool_id=spool_id, gateway_id=request.gateway_id, closes=request.closes)


def _audit_entry(told: audit_pb2.AuditEntry, gateway_id: str) -> AuditEntry:
    document = told.request_json.replace("\0", "")
    if len(document) > _JSON_CHARS_MAX:
        document = json.dumps({"truncated": document[: _JSON_CHARS_MAX // 2]})
    return AuditEntry(
        tenant_id=text(told.tenant_id),
        event_time=instant(told.event_time),
        actor=text(told.actor),
        method=text(told.method),
        resource=text(told.resource),
        request_json=document,
        outcome=text(told.outcome),
        request_id=text(told.request_id),
        gateway_id=text(told.gateway_id) or gateway_id,
    )


def _invalid(name: str, why: str) -> ValidationError:
    return ValidationError(f"{name} {why}", field=name)
