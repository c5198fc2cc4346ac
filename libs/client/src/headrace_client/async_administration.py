"""Tenants and their API keys, with asyncio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from headrace_client import rpcs
from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_client.errors import ValidationError
from headrace_client.key_policies import policy
from headrace_client.transport import Transport

TenantList = list[tenants_pb2.Tenant]
KeyList = list[tenants_pb2.ApiKey]
_PAGE_SIZE = 1000


class AsyncTenants:
    """Tenants. Reading one's own needs the role `viewer`; all else `admin` in the operators' tenant."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self,
        tenant: str,
        *,
        display_name: str = "",
        tier: str = "",
        metadata: Mapping[str, str] | None = None,
        isolation: str = "shared",
    ) -> tenants_pb2.Tenant:
        """Register a tenant; repeating it with the same fields changes nothing.

        Args:
            tenant: Its id: a lower-case letter, then 1 to 62 lower-case letters, digits or `-`.
            display_name: Name for people.
            tier: Service tier; empty means `standard`.
            metadata: Free key-value pairs; `feature.<name>` of `on` or `off` switches a feature.
            isolation: `shared`, or `dedicated` for only runners with the label `tenant=<id>`.
        """
        request = tenants_pb2.CreateTenantRequest(
            id=tenant, display_name=display_name, tier=tier, metadata=metadata, isolation=_isolation(isolation)
        )
        return (await self._transport.unary(rpcs.CREATE_TENANT, request)).tenant

    async def get(self, tenant: str = "") -> tenants_pb2.Tenant:
        """One tenant; empty means the caller's own."""
        return (await self._transport.unary(rpcs.GET_TENANT, tenants_pb2.GetTenantRequest(id=tenant))).tenant

    async def list(self) -> TenantList:
        """All tenants, ordered by id."""
        request = tenants_pb2.ListTenantsRequest(page_size=_PAGE_SIZE)
        return [tenant async for page in self._transport.pages(rpcs.LIST_TENANTS, request) for tenant in page.tenants]

    async def update(
        self,
        tenant: str,
        *,
        display_name: str | None = None,
        tier: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        isolation: str | None = None,
    ) -> tenants_pb2.Tenant:
        """Change what is given and nothing else, at every gateway within 5 s.

        Args:
            tenant: Its id.
            display_name: Name for people; empty means the id.
            tier: Service tier; empty means `standard`.
            metadata: Pairs to set, None to take one away; the others stay.
            isolation: `shared` or `dedicated`.
        """
        request = tenants_pb2.UpdateTenantRequest(tenant=tenants_pb2.Tenant(id=tenant))
        paths = request.update_mask.paths
        if display_name is not None:
            request.tenant.display_name = display_name
            paths.append("display_name")
        if tier is not None:
            request.tenant.tier = tier
            paths.append("tier")
        if isolation is not None:
            request.tenant.isolation = _isolation(isolation)
            paths.append("isolation")
        for key, value in (metadata or {}).items():
            paths.append(f"metadata.{key}")
            if value is not None:
                request.tenant.metadata[key] = value
        return (await self._transport.unary(rpcs.UPDATE_TENANT, request)).tenant

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
        allow: Sequence[str] = (),
    ) -> tenants_pb2.CreateApiKeyResponse:
        """Make a key. The answer's `key` is shown this once. Never retried: a lost answer may have made a key.

        Args:
            tenant: Whose key; empty means the caller's own.
            display_name: Name for people.
            roles: Of `viewer`, `user`, `model_admin` and `admin`, each of which includes those before it.
            expire_time: When it stops working, with a time zone; None means never.
            allow: If there are any, it may do nothing else with models: `infer:model-a,model-b`, `infer+read:team-*`.
        """
        request = tenants_pb2.CreateApiKeyRequest(
            tenant_id=tenant,
            display_name=display_name,
            roles=[_role(role) for role in roles],
            policies=[policy(text) for text in allow],
        )
        if expire_time is not None:
            request.expire_time.FromDatetime(_zoned(expire_time))
        return await self._transport.unary(rpcs.CREATE_API_KEY, request)

    async def list(self, tenant: str = "") -> KeyList:
        """All keys of a tenant, the newest first, revoked ones included; never the keys themselves."""
        request = tenants_pb2.ListApiKeysRequest(tenant_id=tenant, page_size=_PAGE_SIZE)
        return [key async for page in self._transport.pages(rpcs.LIST_API_KEYS, request) for key in page.api_keys]

    async def revoke(self, key_id: str) -> tenants_pb2.ApiKey:
        """End a key for good, at every gateway within 5 s. Takes the key's id, not the key."""
        return (await self._transport.unary(rpcs.REVOKE_API_KEY, tenants_pb2.RevokeApiKeyRequest(id=key_id))).api_key

    async def rotate(
        self, key_id: str, *, overlap: timedelta | None = None, expire_time: datetime | None = None
    ) -> tenants_pb2.RotateApiKeyResponse:
        """Make a key that may do the same as another one. The answer's `key` is shown this once. Never retried.

        Args:
            key_id: The other key's id, not the key.
            overlap: How long the other one still works, up to 30 days; None means a day.
            expire_time: When the new one stops working, with a time zone; None means never.
        """
        request = tenants_pb2.RotateApiKeyRequest(id=key_id)
        if overlap is not None:
            request.overlap.FromTimedelta(overlap)
        if expire_time is not None:
            request.expire_time.FromDatetime(_zoned(expire_time))
        return await self._transport.unary(rpcs.ROTATE_API_KEY, request)


def _zoned(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValidationError("expire_time needs a time zone", field="expire_time")
    return moment


def _isolation(name: str) -> tenants_pb2.Isolation.ValueType:
    try:
        return tenants_pb2.Isolation.Value(f"ISOLATION_{name.upper()}")
    except ValueError:
        raise ValidationError(f"there is no isolation '{name}', only shared and dedicated", field="isolation") from None


def _role(name: str) -> tenants_pb2.Role.ValueType:
    try:
        return tenants_pb2.Role.Value(f"ROLE_{name.upper()}")
    except ValueError:
        raise ValidationError(
            f"there is no role '{name}', only viewer, user, model_admin and admin", field="roles"
        ) from None
