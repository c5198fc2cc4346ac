"""A chain of audit entries is whole, or it is told where it isn't."""

from __future__ import annotations

import hashlib

import pytest

from headrace_client.audit_chain import ChainCheck, entry_sha256
from headrace_client.contracts.headrace.quota.v1.audit_pb2 import AuditEntry


def chain(length: int, *, tenant: str = "acme") -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    before = bytes(32)
    for sequence in range(1, length + 1):
        entry = AuditEntry(
            tenant_id=tenant,
            sequence=sequence,
            actor="key:k",
            method="/package.Service/Method",
            resource="thing",
            request_json='{"name":"é"}',
            outcome="OK",
            request_id="r",
            gateway_id="gateway-0.a",
            previous_sha256=before,
        )
        entry.event_time.FromMicroseconds(1_700_000_000_000_001)
        entry.sha256 = before = entry_sha256(entry)
        entries.append(entry)
    return entries


def faults(entries: list[AuditEntry]) -> list[str]:
    check = ChainCheck("acme")
    return [fault for entry in entries if (fault := check.fault(entry))]


def test_the_hash_is_over_the_length_prefixed_fields() -> None:
    (entry,) = chain(1)
    fields = [
        b"acme",
        b"1",
        b"2023-11-14T22:13:20.000001Z",
        b"key:k",
        b"/package.Service/Method",
        b"thing",
        '{"name":"é"}'.encode(),
        b"OK",
        b"r",
        b"gateway-0.a",
        bytes(32),
    ]
    whole = b"".join(len(field).to_bytes(8, "big") + field for field in fields)
    assert entry.sha256 == hashlib.sha256(whole).digest()


def test_a_whole_chain_has_no_fault() -> None:
    check = ChainCheck("acme")
    entries = chain(5)
    assert not any(check.fault(entry) for entry in entries)
    assert (check.sequence, check.sha256) == (5, entries[-1].sha256)


@pytest.mark.parametrize(
    "field", ["actor", "method", "resource", "request_json", "outcome", "request_id", "gateway_id"]
)
def test_a_changed_field_is_found_at_its_place(field: str) -> None:
    entries = chain(3)
    setattr(entries[1], field, "another")
    assert faults(entries)[0] == "entry 2 is not what was written: its hash is another one"


def test_a_changed_time_is_found() -> None:
    for change in (1_000, 1, 10**18):
        entries = chain(3)
        entries[2].event_time.seconds += change // 1_000
        entries[2].event_time.nanos += change % 1_000
        assert faults(entries) == ["entry 3 is not what was written: its hash is another one"]


def test_an_entry_changed_with_its_hash_breaks_the_one_after() -> None:
    entries = chain(3)
    entries[1].outcome = "NOT_FOUND"
    entries[1].sha256 = entry_sha256(entries[1])
    assert faults(entries) == ["entry 3 does not follow the entry before it"]


def test_an_entry_left_out_put_in_or_taken_from_elsewhere_is_found() -> None:
    entries = chain(4)
    assert faults(entries[:1] + entries[2:])[0] == "entry 2 is missing: 3 comes after 1"
    assert faults(entries[1:])[0] == "entry 1 is missing: 2 comes after 0"
    assert faults([entries[0], *entries])[0] == "entry 2 is missing: 1 comes after 1"
    assert faults(chain(1, tenant="rival")) == ["entry 1 is another tenant's"]
