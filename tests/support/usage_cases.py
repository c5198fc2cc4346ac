"""Calls of the public RPCs about the ledger, what happened to runners, and the audit log."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from headrace.quota.v1 import audit_pb2, quotas_pb2, tenants_pb2
from headrace.quota.v1 import usage_pb2 as pb
from support.open_inference_cases import model_infer
from support.parties import until
from support.quota_cases import daily
from support.refusals import refusal_of
from support.rpc_cases import World, case

USAGE = "headrace.quota.v1.UsageService"
AUDIT = "headrace.quota.v1.AuditService"
_SLACK_S = 60


def _told(ask: Callable[[], Any]) -> Any:
    """What a listing holds once it holds anything: gateways tell of a call after it has ended."""
    found: list[Any] = []

    def there() -> bool:
        found[:] = ask()
        return bool(found)

    until(there)
    return found


def _span(request: Any) -> Any:
    """The request for all that this module can have caused."""
    now_s = int(time.time())
    request.start_time.seconds, request.end_time.seconds = now_s - 86_400, now_s + _SLACK_S
    return request


@case(f"{USAGE}/ListRequests")
def list_requests(world: World) -> None:
    model_infer(world)
    wanted = _span(pb.ListRequestsRequest(model=world.model, status=pb.REQUEST_STATUS_OK, page_size=1))
    (row,) = _told(lambda: world.owner(world.owner.usage.ListRequests, wanted).requests)
    assert (row.tenant_id, row.model, row.version) == (world.tenant.id, world.model, "1")
    assert (row.subject, row.calls, row.error_reason) == (f"key:{world.tenant.key_id}", 1, "")
    assert row.input_bytes > 0 and row.output_bytes > 0 and row.runner_id and row.device_type == "cpu"
    other = world.operator.tenant()
    wanted.tenant_id = world.tenant.id
    assert refusal_of(lambda: other.admin(other.admin.usage.ListRequests, wanted)).reason == "TENANT_NOT_FOUND"


@case(f"{USAGE}/ExportRequests")
def export_requests(world: World) -> None:
    model_infer(world)
    wanted = _span(pb.ExportRequestsRequest(tenant_id=world.tenant.id))

    def exported() -> list[pb.RequestRecord]:
        parts = world.operator(world.operator.usage.ExportRequests, wanted)
        return [row for part in parts for row in part.requests]

    rows = _told(exported)
    admitted = [row.admit_time.ToNanoseconds() for row in rows]
    assert admitted == sorted(admitted)
    assert {row.tenant_id for row in rows} == {world.tenant.id}


@case(f"{USAGE}/SummarizeUsage")
def summarize_usage(world: World) -> None:
    model_infer(world)
    wanted = _span(pb.SummarizeUsageRequest(model=world.model, granularity=pb.GRANULARITY_HOUR))
    sums = _told(lambda: world.owner(world.owner.usage.SummarizeUsage, wanted).sums)
    assert {(span.model, span.version) for span in sums} == {(world.model, "1")}
    assert all(span.calls >= 1 and span.start_time.seconds % 3600 == 0 for span in sums)


@case(f"{USAGE}/ListRunnerEvents")
def list_runner_events(world: World) -> None:
    wanted = pb.ListRunnerEventsRequest()
    events = _told(lambda: world.operator(world.operator.usage.ListRunnerEvents, wanted).events)
    assert "connected" in {event.event for event in events}
    assert all(event.runner_id and event.gateway_id.startswith("gateway-") for event in events)
    assert refusal_of(lambda: world.owner(world.owner.usage.ListRunnerEvents, wanted)).reason == "ROLE_FORBIDDEN"


@case(f"{AUDIT}/ListAuditEntries")
def list_audit_entries(world: World) -> None:
    tenant = world.operator.tenant()
    made = tenant.admin(
        tenant.admin.tenants.CreateApiKey, tenants_pb2.CreateApiKeyRequest(roles=[tenants_pb2.ROLE_USER])
    )
    forbidden = quotas_pb2.SetLimitsRequest(tenant_id=tenant.id, limits=[daily()])
    refusal_of(lambda: tenant.admin(tenant.admin.quotas.SetLimits, forbidden))
    wanted = audit_pb2.ListAuditEntriesRequest()

    def entries() -> list[audit_pb2.AuditEntry]:
        return list(tenant.admin(tenant.admin.audit.ListAuditEntries, wanted).entries)

    until(lambda: len(entries()) == 2)
    first, second = entries()
    assert (first.method, first.outcome) == ("/headrace.quota.v1.TenantService/CreateApiKey", "OK")
    assert (second.method, second.outcome) == ("/headrace.quota.v1.QuotaService/SetLimits", "PERMISSION_DENIED")
    assert (second.resource, second.actor) == (tenant.id, f"key:{tenant.key_id}")
    assert (first.sequence, second.sequence) == (1, 2)
    assert (first.previous_sha256, second.previous_sha256) == (bytes(32), first.sha256)
    assert made.key not in str(first)
    viewer, _ = world.operator.key(tenant.id, tenants_pb2.ROLE_VIEWER)
    assert refusal_of(lambda: viewer(viewer.audit.ListAuditEntries, wanted)).reason == "ROLE_FORBIDDEN"
    absent = audit_pb2.ListAuditEntriesRequest(tenant_id=f"absent-{secrets.token_hex(4)}")
    foreign = audit_pb2.ListAuditEntriesRequest(tenant_id=tenant.id)
    for request in (absent, foreign):
        refused = refusal_of(lambda request=request: world.owner(world.owner.audit.ListAuditEntries, request))
        assert refused.reason == "TENANT_NOT_FOUND"
