"""`headrace.quota.v1.TenantService`: translate, ask the administration, translate back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from headrace.quota.v1 import tenants_pb2 as pb
from headrace_common.grpc_server import Call, RpcMethod, unary
from headrace_quota.administration import TenantAdministration
from headrace_quota.messages import (
    api_key_message,
    instant_from,
    isolation_from,
    overlap_from,
    policies_from,
    roles_from,
    tenant_message,
)
from headrace_quota.paging import (
    key_position,
    key_token,
    page_of,
    page_size,
    tenant_position,
    tenant_token,
)
from headrace_quota.store import KeyPosition
from headrace_quota.tenant_change import TenantChange
from headrace_quota.tenants import TenantStatus

TENANT_SERVICE = "headrace.quota.v1.TenantService"
# Whose roles suffice depends on whose tenant is meant, and a foreign tenant must look absent before any role is
# looked at: so every authenticated caller gets in, and the administration decides.
_DECIDED_INSIDE = "any"
_OVERLAP = timedelta(hours=24)


class TenantServicer:
    """Answers the public RPCs about tenants and keys. What each raises, the administration's methods say.

    Args:
        administration: What is done.
        keep_changes: Reads what was committed into memory, from where gateways are told. Who is locked out stays so
            although the database goes away as soon as that was answered.
    """

    def __init__(self, *, administration: TenantAdministration, keep_changes: Callable[[], Awaitable[None]]) -> None:
        self._administration = administration
        self._keep_changes = keep_changes

    async def create_tenant(self, request: pb.CreateTenantRequest, call: Call) -> pb.CreateTenantResponse:
        """Registers a tenant."""
        tenant = await self._administration.create_tenant(
            call.principal,
            tenant_id=request.id,
            display_name=request.display_name,
            tier=request.tier,
            metadata=request.metadata,
            isolation=isolation_from(request.isolation, field="isolation"),
        )
        return pb.CreateTenantResponse(tenant=tenant_message(tenant))

    async def get_tenant(self, request: pb.GetTenantRequest, call: Call) -> pb.GetTenantResponse:
        """Shows one tenant."""
        tenant = await self._administration.tenant(call.principal, request.id)
        return pb.GetTenantResponse(tenant=tenant_message(tenant))

    async def list_tenants(self, request: pb.ListTenantsRequest, call: Call) -> pb.ListTenantsResponse:
        """Shows a page of tenants; reads one row more than shown to know whether another page follows."""
        size = page_size(request.page_size)
        rows = await self._administration.tenants(
            call.principal, after_id=tenant_position(request.page_token), limit=size + 1
        )
        shown, last = page_of(rows, size)
        return pb.ListTenantsResponse(
            tenants=[tenant_message(tenant) for tenant in shown],
            next_page_token=tenant_token(last.id) if last is not None else "",
        )

    async def suspend_tenant(self, request: pb.SuspendTenantRequest, call: Call) -> pb.SuspendTenantResponse:
        """Stops serving a tenant."""
        tenant = await self._administration.set_status(call.principal, request.id, TenantStatus.SUSPENDED)
        await self._keep_changes()
        return pb.SuspendTenantResponse(tenant=tenant_message(tenant))

    async def resume_tenant(self, request: pb.ResumeTenantRequest, call: Call) -> pb.ResumeTenantResponse:
        """Serves a tenant again."""
        tenant = await self._administration.set_status(call.principal, request.id, TenantStatus.ACTIVE)
        return pb.ResumeTenantResponse(tenant=tenant_message(tenant))

    async def update_tenant(self, request: pb.UpdateTenantRequest, call: Call) -> pb.UpdateTenantResponse:
        """Changes the fields that the mask names."""
        wanted = request.tenant
        change = TenantChange.checked(
            paths=request.update_mask.paths,
            tenant_id=wanted.id,
            display_name=wanted.display_name,
            tier=wanted.tier,
            metadata=wanted.metadata,
            isolation=isolation_from(wanted.isolation, field="tenant.isolation"),
        )
        tenant = await self._administration.update_tenant(call.principal, change)
        return pb.UpdateTenantResponse(tenant=tenant_message(tenant))

    async def create_api_key(self, request: pb.CreateApiKeyRequest, call: Call) -> pb.CreateApiKeyResponse:
        """Makes a key and shows it, once."""
        expire_time = (
            instant_from(request.expire_time, field="expire_time") if request.HasField("expire_time") else None
        )
        stored, key = await self._administration.create_api_key(
            call.principal,
            tenant_id=request.tenant_id,
            display_name=request.display_name,
            roles=roles_from(request.roles),
            expire_time=expire_time,
            policies=policies_from(request.policies),
        )
        return pb.CreateApiKeyResponse(api_key=api_key_message(stored), key=key)

    async def list_api_keys(self, request: pb.ListApiKeysRequest, call: Call) -> pb.ListApiKeysResponse:
        """Shows a page of a tenant's keys."""
        size = page_size(request.page_size)
        owner = request.tenant_id or call.principal.tenant_id
        rows = await self._administration.api_keys(
            call.principal, tenant_id=owner, after=key_position(request.page_token, owner), limit=size + 1
        )
        shown, last = page_of(rows, size)
        return pb.ListApiKeysResponse(
            api_keys=[api_key_message(key) for key in shown],
            next_page_token=key_token(owner, KeyPosition(last.create_time, last.id)) if last is not None else "",
        )

    async def revoke_api_key(self, request: pb.RevokeApiKeyRequest, call: Call) -> pb.RevokeApiKeyResponse:
        """Ends a key for good."""
        key = await self._administration.revoke_api_key(call.principal, request.id)
        await self._keep_changes()
        return pb.RevokeApiKeyResponse(api_key=api_key_message(key))

    async def rotate_api_key(self, request: pb.RotateApiKeyRequest, call: Call) -> pb.RotateApiKeyResponse:
        """Makes a key to follow another one, and shows it, once."""
        expires = instant_from(request.expire_time, field="expire_time") if request.HasField("expire_time") else None
        stored, key, former = await self._administration.rotate_api_key(
            call.principal,
            request.id,
            overlap=overlap_from(request.overlap) if request.HasField("overlap") else _OVERLAP,
            expire_time=expires,
        )
        return pb.RotateApiKeyResponse(api_key=api_key_message(stored), key=key, former=api_key_message(former))

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """The methods by name, for the service's handler."""
        role = _DECIDED_INSIDE
        return {
            "CreateTenant": unary(self.create_tenant, pb.CreateTenantRequest, pb.CreateTenantResponse, role=role),
            "GetTenant": unary(self.get_tenant, pb.GetTenantRequest, pb.GetTenantResponse, role=role),
            "ListTenants": unary(self.list_tenants, pb.ListTenantsRequest, pb.ListTenantsResponse, role=role),
            "SuspendTenant": unary(self.suspend_tenant, pb.SuspendTenantRequest, pb.SuspendTenantResponse, role=role),
            "ResumeTenant": unary(self.resume_tenant, pb.ResumeTenantRequest, pb.ResumeTenantResponse, role=role),
            "UpdateTenant": unary(self.update_tenant, pb.UpdateTenantRequest, pb.UpdateTenantResponse, role=role),
            "CreateApiKey": unary(self.create_api_key, pb.CreateApiKeyRequest, pb.CreateApiKeyResponse, role=role),
            "ListApiKeys": unary(self.list_api_keys, pb.ListApiKeysRequest, pb.ListApiKeysResponse, role=role),
            "RevokeApiKey": unary(self.revoke_api_key, pb.RevokeApiKeyRequest, pb.RevokeApiKeyResponse, role=role),
            "RotateApiKey": unary(self.rotate_api_key, pb.RotateApiKeyRequest, pb.RotateApiKeyResponse, role=role),
        }
