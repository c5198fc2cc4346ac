"""Tenants, for operators: the public service by REST."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import rpcs
from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.document_fields import Object, known_fields, object_at
from headrace_gateway.http.pages import PageSize, PageToken
from headrace_gateway.http.proto_documents import answer, created, document_of, json_body, message_of, read_document

_CHANGED: Final = {"displayName": "display_name", "tier": "tier", "isolation": "isolation"}
_CHANGE: Final[Object] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "What changes; null takes a pair of the metadata away, or sets a field's default.",
                    "properties": {
                        "displayName": {"type": ["string", "null"]},
                        "tier": {"type": ["string", "null"]},
                        "isolation": {"enum": [*tenants_pb2.Isolation.keys(), None]},
                        "metadata": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}

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


@router.patch("/tenants/{tenant}", summary="Change what is given of a tenant", openapi_extra=_CHANGE)
async def update(
    tenant: str, request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall
) -> Response:
    asked = _update(tenant, await read_document(request, front))
    changed = await session.unary(rpcs.UPDATE_TENANT, asked, call=call)
    return answer(document_of(changed.tenant))


@router.post("/tenants/{tenant}/suspend", summary="Have all calls of a tenant refused")
async def suspend(tenant: str, session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.SUSPEND_TENANT, tenants_pb2.SuspendTenantRequest(id=tenant), call=call)
    return answer(document_of(found.tenant))


@router.post("/tenants/{tenant}/resume", summary="End a suspension")
async def resume(tenant: str, session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.RESUME_TENANT, tenants_pb2.ResumeTenantRequest(id=tenant), call=call)
    return answer(document_of(found.tenant))


def _update(tenant: str, document: Object) -> tenants_pb2.UpdateTenantRequest:
    """The fields that a document has, and a mask that names them: single pairs of the metadata, not all of it."""
    known_fields(document, frozenset((*_CHANGED, "metadata")))
    pairs = object_at(document.get("metadata", {}), "metadata")
    paths = [path for name, path in _CHANGED.items() if name in document] + [f"metadata.{key}" for key in pairs]
    values: Object = {name: document[name] for name in _CHANGED if document.get(name) is not None}
    values |= {"id": tenant, "metadata": {key: value for key, value in pairs.items() if value is not None}}
    asked = tenants_pb2.UpdateTenantRequest(tenant=message_of(tenants_pb2.Tenant, values))
    asked.update_mask.paths.extend(paths)
    return asked
