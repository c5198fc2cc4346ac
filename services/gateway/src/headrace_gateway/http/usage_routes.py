"""The ledger of calls, what happened to runners, and the audit log: the public services by REST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from headrace_client import rpcs
from headrace_client.contracts.headrace.quota.v1 import audit_pb2, usage_pb2
from headrace_gateway.http.dependencies import CurrentCall, CurrentSession
from headrace_gateway.http.pages import PageSize, PageToken
from headrace_gateway.http.proto_documents import answer, document_of, message_of

_TEXT_CHARS_MAX = 256

Text = Annotated[str, Query(max_length=_TEXT_CHARS_MAX)]
TenantId = Annotated[
    str, Query(alias="tenantId", max_length=_TEXT_CHARS_MAX, description="Whose; empty means the caller's.")
]
StartTime = Annotated[
    str, Query(alias="startTime", max_length=64, description="Then or later, as 2026-01-31T12:00:00Z.")
]
EndTime = Annotated[str, Query(alias="endTime", max_length=64, description="Before then.")]
RequestId = Annotated[str, Query(alias="requestId", max_length=_TEXT_CHARS_MAX)]
RunnerId = Annotated[
    str, Query(alias="runnerId", max_length=_TEXT_CHARS_MAX, description="Only of this runner: its id or name.")
]
Status = Annotated[str, Query(max_length=64, description="Only of this one, as REQUEST_STATUS_FAILED.")]
Granularity = Annotated[str, Query(max_length=64, description="As GRANULARITY_HOUR, ..._DAY or ..._MONTH.")]
After = Annotated[int, Query(alias="afterSequence", ge=0, le=2**63 - 1, description="Entries after this place.")]
Before = Annotated[
    int, Query(alias="beforeSequence", ge=0, le=2**63 - 1, description="With newestFirst: before this place.")
]
NewestFirst = Annotated[bool, Query(alias="newestFirst", description="From the end of the chain.")]

router = APIRouter(prefix="/v1", tags=["usage"])


@router.get("/usage/requests", summary="A page of the ledger, the newest first")
async def list_requests(
    session: CurrentSession,
    call: CurrentCall,
    tenant_id: TenantId = "",
    start_time: StartTime = "",
    end_time: EndTime = "",
    model: Text = "",
    status: Status = "",
    request_id: RequestId = "",
    subject: Text = "",
    page_size: PageSize = 0,
    page_token: PageToken = "",
) -> Response:
    given = {
        "tenantId": tenant_id,
        "startTime": start_time,
        "endTime": end_time,
        "model": model,
        "status": status,
        "requestId": request_id,
        "subject": subject,
        "pageSize": page_size,
        "pageToken": page_token,
    }
    asked = message_of(usage_pb2.ListRequestsRequest, _said(given))
    return answer(document_of(await session.unary(rpcs.LIST_REQUESTS, asked, call=call)))


@router.get("/usage/summary", summary="Sums by model and hour, day or month")
async def summarize(
    session: CurrentSession,
    call: CurrentCall,
    tenant_id: TenantId = "",
    start_time: StartTime = "",
    end_time: EndTime = "",
    model: Text = "",
    granularity: Granularity = "",
) -> Response:
    given = {
        "tenantId": tenant_id,
        "startTime": start_time,
        "endTime": end_time,
        "model": model,
        "granularity": granularity,
    }
    asked = message_of(usage_pb2.SummarizeUsageRequest, _said(given))
    return answer(document_of(await session.unary(rpcs.SUMMARIZE_USAGE, asked, call=call)))


@router.get("/runner-events", summary="A page of what happened to runners, the newest first")
async def list_runner_events(
    session: CurrentSession,
    call: CurrentCall,
    runner_id: RunnerId = "",
    start_time: StartTime = "",
    page_size: PageSize = 0,
    page_token: PageToken = "",
) -> Response:
    given = {"runnerId": runner_id, "startTime": start_time, "pageSize": page_size, "pageToken": page_token}
    asked = message_of(usage_pb2.ListRunnerEventsRequest, _said(given))
    return answer(document_of(await session.unary(rpcs.LIST_RUNNER_EVENTS, asked, call=call)))


@router.get("/audit", summary="A page of a tenant's chain of administrative calls, the oldest first")
async def list_audit_entries(
    session: CurrentSession,
    call: CurrentCall,
    tenant_id: TenantId = "",
    method: Text = "",
    actor: Text = "",
    after_sequence: After = 0,
    before_sequence: Before = 0,
    newest_first: NewestFirst = False,
    page_size: PageSize = 0,
) -> Response:
    asked = audit_pb2.ListAuditEntriesRequest(
        tenant_id=tenant_id,
        method=method,
        actor=actor,
        after_sequence=after_sequence,
        before_sequence=before_sequence,
        newest_first=newest_first,
        page_size=page_size,
    )
    return answer(document_of(await session.unary(rpcs.LIST_AUDIT_ENTRIES, asked, call=call)))


def _said(given: Mapping[str, str | int]) -> dict[str, str | int]:
    """What was given, for the contract's JSON to read."""
    return {name: value for name, value in given.items() if value}
