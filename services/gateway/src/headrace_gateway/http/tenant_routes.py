"""Tenants, for operators: the public service by REST."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import rpcs
from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.pages import PageSize, PageToken
from headrace_gateway.http.proto_documents import answer, created, document_of, json_body, message_of, read_document

router = APIRouter(prefix="/v1", tags=["tenants"])


@router.get("/tenant", summary="The caller's own tenant")
async def own(session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.GET_TENANT, tenants_pb2.GetTenantRequest(), call=call)
    return answer(document_of(found.tenant))


@router.post(
    "/tenants",
    status_code=201,
    summary="Register a tenant",
    openapi_extra=json_body(tenants_pb2.CreateTenantRequest, required=["id"]),
)
async def create(request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall) -> Response:
    asked = message_of(tenants_pb2.CreateTenantRequest, await read_document(request, front))
    made = await session.unary(rpcs.CREATE_TENANT, asked, call=call)
    return created(document_of(made.tenant), "v1", "tenants", made.tenant.id)


@router.get("/tenants", summary="A page of the tenants, by id")
async def list_tenants(
    session: CurrentSession, call: CurrentCall, page_size: PageSize = 0, page_token: PageToken = ""
) -> Response:
    asked = tenants_pb2.ListTenantsRequest(page_size=page_size, page_token=page_token)
    return answer(document_of(await session.unary(rpcs.LIST_TENANTS, asked, call=call)))


@router.get("/tenants/{tenant}", summary="One tenant")
async def get(tenant: str, session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.GET_TENANT, tenants_pb2.GetTenantRequest(id=tenant), call=call)
    return answer(document_of(found.tenant))


@router.post("/tenants/{tenant}/suspend", summary="Have all calls of a tenant refused")
async def suspend(tenant: str, session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.SUSPEND_TENANT, tenants_pb2.SuspendTenantRequest(id=tenant), call=call)
    return answer(document_of(found.tenant))


@router.post("/tenants/{tenant}/resume", summary="End a suspension")
async def resume(tenant: str, session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.RESUME_TENANT, tenants_pb2.ResumeTenantRequest(id=tenant), call=call)
    return answer(document_of(found.tenant))
