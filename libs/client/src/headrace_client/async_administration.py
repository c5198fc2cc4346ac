"""Tenants and their API keys, with asyncio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from headrace_client import rpcs
from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_client.errors import ValidationError
from headrace_client.transport import Transport

TenantList = list[tenants_pb2.Tenant]
KeyList = list[tenants_pb2.ApiKey]
_PAGE_SIZE = 1000


class AsyncTenants:
    """Tenants. Reading one's own needs the role `viewer`; all else `admin` in the operators' tenant."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self, tenant: str, *, display_name: str = "", tier: str = "", metadata: Mapping[str, str] | None = None
    ) -> tenants_pb2.Tenant:
        """Register a tenant; repeating it with the same fields changes nothing.

        Args:
            tenant: Its id: a lower-case letter, then 1 to 62 lower-case letters, digits or `-`.
            display_name: Name for people.
            tier: Service tier; empty means `standard`.
            metadata: Free key-value pairs.
        """
        request = tenants_pb2.CreateTenantRequest(id=tenant, display_name=display_name, tier=tier, metadata=metadata)
        return (await self._transport.unary(rpcs.CREATE_TENANT, request)).tenant

    async def get(self, tenant: str = "") -> tenants_pb2.Tenant:
        """One tenant; empty means the caller's own."""
        return (await self._transport.unary(rpcs.GET_TENANT, tenants_pb2.GetTenantRequest(id=tenant))).tenant

    async def list(self) -> TenantList:
        """All tenants, ordered by id."""
        request = tenants_pb2.ListTenantsRequest(page_size=_PAGE_SIZE)
        return [tenant async for page in self._transport.pages(rpcs.LIST_TENANTS, request) for tenant in page.tenants]

    async def suspend(self, tenant: str) -> tenants_pb2.Tenant:
        """Have all its calls refused, at every gateway within 5 s."""
        return (await self._transport.unary(rpcs.SUSPEND_TENANT, tenants_pb2.SuspendTenantRequest(id=tenant))).tenant

    async def resume(self, tenant: str) -> tenants_pb2.Tenant:
        """End a suspension."""
        return (await self._transport.unary(rpcs.RESUME_TENANT, tenants_pb2.ResumeTenantRequest(id=tenant))).tenant


class AsyncKeys:
    """API keys. Needs the role `admin`; operators may name any tenant."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self,
        *,
        tenant: str = "",
        display_name: str = "",
        roles: Sequence[str] = ("user",),
        expire_time: datetime | None = None,
    ) -> tenants_pb2.CreateApiKeyResponse:
        """Make a key. The answer's `key` is shown this once. Never retried: a lost answer may have made a key.

        Args:
            tenant: Whose key; empty means the caller's own.
            display_name: Name for people.
            roles: Of `viewer`, `user`, `model_admin` and `admin`, each of which includes those before it.
            expire_time: When it stops working, with a time zone; None means never.
        """
        request = tenants_pb2.CreateApiKeyRequest(
            tenant_id=tenant, display_name=display_name, roles=[_role(role) for role in roles]
        )
        if expire_time is not None:
            if expire_time.tzinfo is None:
                raise ValidationError("expire_time needs a time zone", field="expire_time")
            request.expire_time.FromDatetime(expire_time)
        return await self._transport.unary(rpcs.CREATE_API_KEY, request)

    async def list(self, tenant: str = "") -> KeyList:
        """All keys of a tenant, the newest first, revoked ones included; never the keys themselves."""
        request = tenants_pb2.ListApiKeysRequest(tenant_id=tenant, page_size=_PAGE_SIZE)
        return [key async for page in self._transport.pages(rpcs.LIST_API_KEYS, request) for key in page.api_keys]

    async def revoke(self, key_id: str) -> tenants_pb2.ApiKey:
        """End a key for good, at every gateway within 5 s. Takes the key's id, not the key."""
        return (await self._transport.unary(rpcs.REVOKE_API_KEY, tenants_pb2.RevokeApiKeyRequest(id=key_id))).api_key


def _role(name: str) -> tenants_pb2.Role.ValueType:
    try:
        return tenants_pb2.Role.Value(f"ROLE_{name.upper()}")
    except ValueError:
        raise ValidationError(
            f"there is no role '{name}', only viewer, user, model_admin and admin", field="roles"
        ) from None
