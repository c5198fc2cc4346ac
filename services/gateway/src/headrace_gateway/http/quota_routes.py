"""Plans, limits, and what is used of them: the public service by REST."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import rpcs
from headrace_client.contracts.headrace.quota.v1 import quotas_pb2
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.pages import PageSize, PageToken
from headrace_gateway.http.proto_documents import answer, document_of, json_body, message_of, read_document

TenantsMax = Annotated[int, Query(alias="tenantsMax", ge=0, le=1_000, description="How many tenants; 0 means 20.")]

router = APIRouter(prefix="/v1", tags=["quotas"])


@router.get("/limits", summary="The limits that hold for the caller's own tenant")
async def own_limits(session: CurrentSession, call: CurrentCall) -> Response:
    return answer(document_of(await session.unary(rpcs.GET_LIMITS, quotas_pb2.GetLimitsRequest(), call=call)))


@router.get("/quota-usage", summary="How each limit of the caller's own tenant stands")
async def own_usage(session: CurrentSession, call: CurrentCall) -> Response:
    asked = quotas_pb2.GetQuotaUsageRequest()
    return answer(document_of(await session.unary(rpcs.GET_QUOTA_USAGE, asked, call=call)))


@router.get("/tenants/{tenant}/limits", summary="The limits that hold for a tenant: its own and its plan's")
async def get_limits(tenant: str, session: CurrentSession, call: CurrentCall) -> Response:
    asked = quotas_pb2.GetLimitsRequest(tenant_id=tenant)
    return answer(document_of(await session.unary(rpcs.GET_LIMITS, asked, call=call)))


@router.put(
    "/tenants/{tenant}/limits",
    summary="Replace a tenant's own limits",
    openapi_extra=json_body(quotas_pb2.SetLimitsRequest, required=["limits"], without=["tenantId"]),
)
async def set_limits(
    tenant: str, request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall
) -> Response:
    asked = message_of(quotas_pb2.SetLimitsRequest, {**await read_document(request, front), "tenantId": tenant})
    return answer(document_of(await session.unary(rpcs.SET_LIMITS, asked, call=call)))


@router.get("/tenants/{tenant}/quota-usage", summary="How each limit of a tenant stands")
async def get_usage(tenant: str, session: CurrentSession, call: CurrentCall) -> Response:
    asked = quotas_pb2.GetQuotaUsageRequest(tenant_id=tenant)
    return answer(document_of(await session.unary(rpcs.GET_QUOTA_USAGE, asked, call=call)))


@router.post(
    "/tenants/{tenant}/quota-usage/reset",
    summary="Set what is used of a tenant's calendar quotas to nothing",
    openapi_extra=json_body(quotas_pb2.ResetQuotaUsageRequest, without=["tenantId"]),
)
async def reset_usage(
    tenant: str, request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall
) -> Response:
    asked = message_of(quotas_pb2.ResetQuotaUsageRequest, {**await read_document(request, front), "tenantId": tenant})
    return answer(document_of(await session.unary(rpcs.RESET_QUOTA_USAGE, asked, call=call)))


@router.get("/quota-statistics", summary="The tenants that are nearest to a limit")
async def statistics(session: CurrentSession, call: CurrentCall, tenants_max: TenantsMax = 0) -> Response:
    asked = quotas_pb2.GetQuotaStatisticsRequest(tenants_max=tenants_max)
    return answer(document_of(await session.unary(rpcs.GET_QUOTA_STATISTICS, asked, call=call)))


@router.get("/plans", summary="A page of the plans, by name")
async def list_plans(
    session: CurrentSession, call: CurrentCall, page_size: PageSize = 0, page_token: PageToken = ""
) -> Response:
    asked = quotas_pb2.ListPlansRequest(page_size=page_size, page_token=page_token)
    return answer(document_of(await session.unary(rpcs.LIST_PLANS, asked, call=call)))


@router.get("/plans/{plan}", summary="One plan")
async def get_plan(plan: str, session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.GET_PLAN, quotas_pb2.GetPlanRequest(name=plan), call=call)
    return answer(document_of(found.plan))


@router.put(
    "/plans/{plan}",
    summary="Make a plan, or replace all of it",
    openapi_extra=json_body(quotas_pb2.Plan, required=["limits"], without=["name", "createTime", "updateTime"]),
)
async def set_plan(
    plan: str, request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall
) -> Response:
    wanted = message_of(quotas_pb2.Plan, {**await read_document(request, front), "name": plan})
    made = await session.unary(rpcs.SET_PLAN, quotas_pb2.SetPlanRequest(plan=wanted), call=call)
    return answer(document_of(made.plan))


@router.delete("/plans/{plan}", status_code=204, summary="Take a plan away that no tenant is on")
async def delete_plan(plan: str, session: CurrentSession, call: CurrentCall) -> Response:
    await session.unary(rpcs.DELETE_PLAN, quotas_pb2.DeletePlanRequest(name=plan), call=call)
    return Response(status_code=204)
