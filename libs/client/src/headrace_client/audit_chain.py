"""Whether a chain of audit entries is whole: computed anew from what the entries say. Pure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from headrace_client.contracts.headrace.quota.v1 import audit_pb2

FIRST = bytes(32)
"""What the first entry follows."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ChainCheck:
    """Follows one chain from its beginning.

    Attributes:
        sequence: Place of the last entry that was right; 0 before the first.
        sha256: Its hash.
    """

    def __init__(self, tenant: str) -> None:
        self.sequence = 0
        self.sha256: bytes = FIRST
        self._tenant = tenant

    def fault(self, entry: audit_pb2.AuditEntry) -> str:
        """What is wrong with the next entry, in words; empty when it fits, which goes on to the one after."""
        wanted = self.sequence + 1
        if entry.sequence != wanted:
            return f"entry {wanted} is missing: {entry.sequence} comes after {self.sequence}"
        if entry.tenant_id != self._tenant:
            return f"entry {wanted} is another tenant's"
        if entry.previous_sha256 != self.sha256:
            return f"entry {wanted} does not follow the entry before it"
        if entry_sha256(entry) != entry.sha256:
            return f"entry {wanted} is not what was written: its hash is another one"
        self.sequence, self.sha256 = wanted, entry.sha256
        return ""


def entry_sha256(entry: audit_pb2.AuditEntry) -> bytes:
    """SHA-256 over an entry's fields, each after its length as 8 bytes, big endian; empty for an impossible time."""
    moment = _moment_text(entry)
    if not moment:
        return b""
    texts = (
        entry.tenant_id,
        str(entry.sequence),
        moment,
        entry.actor,
        entry.method,
        entry.resource,
        entry.request_json,
        entry.outcome,
        entry.request_id,
        entry.gateway_id,
    )
    fields = (*(text.encode() for text in texts), entry.previous_sha256)
    return hashlib.sha256(b"".join(len(field).to_bytes(8, "big") + field for field in fields)).digest()


def _moment_text(entry: audit_pb2.AuditEntry) -> str:
    """`2026-01-31T12:00:00.123456Z`."""
    time = entry.event_time
    try:
        moment = _EPOCH + timedelta(seconds=time.seconds, microseconds=time.nanos // 1_000)
    except OverflowError:
        return ""
    return "" if time.nanos % 1_000 else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
