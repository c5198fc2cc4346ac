"""The hash chain of the audit log: each entry's hash covers all of it and, through the hash before, all before it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One administrative call, without its place in the chain.

    Attributes:
        event_time: To the microsecond.
    """

    tenant_id: str
    event_time: datetime
    actor: str
    method: str
    resource: str
    request_json: str
    outcome: str
    request_id: str
    gateway_id: str

    def sha256(self, sequence: int, previous: bytes) -> bytes:
        """The entry's hash at a place of its chain: SHA-256 over its fields, each after its length in 8 bytes."""
        event_time = self.event_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        fields = (
            self.tenant_id,
            str(sequence),
            event_time,
            self.actor,
            self.method,
            self.resource,
            self.request_json,
            self.outcome,
            self.request_id,
            self.gateway_id,
        )
        hashed = b"".join(_measured(field.encode()) for field in fields)
        return hashlib.sha256(hashed + _measured(previous)).digest()


def _measured(field: bytes) -> bytes:
    return len(field).to_bytes(8, "big") + field
