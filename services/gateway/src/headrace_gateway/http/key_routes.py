"""API keys, for admins: the public service by REST."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import rpcs
from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.pages import PageSize, PageToken
from headrace_gateway.http.proto_documents import answer, created, document_of, json_body, message_of, read_document

_ROTATION = json_body(tenants_pb2.RotateApiKeyRequest, without=["id"])

router = APIRouter(prefix="/v1/keys", tags=["keys"])

TenantId = Annotated[str, Query(alias="tenantId", max_length=256, description="Whose keys; empty means the caller's.")]


@router.post(
    "",
    status_code=201,
    summary="Make a key, which is shown this once",
    openapi_extra=json_body(tenants_pb2.CreateApiKeyRequest),
)
async def create(request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall) -> Response:
    asked = message_of(tenants_pb2.CreateApiKeyRequest, await read_document(request, front))
    made = await session.unary(rpcs.CREATE_API_KEY, asked, call=call)
    answered = created(document_of(made), "v1", "keys", made.api_key.id)
    answered.headers["cache-control"] = "no-store"
    return answered


@router.get("", summary="A page of a tenant's keys, the newest first; never the keys themselves")
async def list_keys(
    session: CurrentSession,
    call: CurrentCall,
    tenant_id: TenantId = "",
    page_size: PageSize = 0,
    page_token: PageToken = "",
) -> Response:
    asked = tenants_pb2.ListApiKeysRequest(tenant_id=tenant_id, page_size=page_size, page_token=page_token)
    return answer(document_of(await session.unary(rpcs.LIST_API_KEYS, asked, call=call)))


@router.post(
    "/{key_id}/rotate",
    status_code=201,
    summary="Make a key that may do the same as another one, which works for a while yet",
    openapi_extra=_ROTATION,
)
async def rotate(
    key_id: str, request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall
) -> Response:
    asked = message_of(tenants_pb2.RotateApiKeyRequest, {**await read_document(request, front), "id": key_id})
    made = await session.unary(rpcs.ROTATE_API_KEY, asked, call=call)
    answered = created(document_of(made), "v1", "keys", made.api_key.id)
    answered.headers["cache-control"] = "no-store"
    return answered


@router.delete("/{key_id}", summary="End a key for good, by its id")
async def revoke(key_id: str, session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.REVOKE_API_KEY, tenants_pb2.RevokeApiKeyRequest(id=key_id), call=call)
    return answer(document_of(found.api_key))
