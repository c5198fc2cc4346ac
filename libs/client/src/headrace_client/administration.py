"""Tenants and their API keys, blocking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from headrace_client.async_administration import AsyncKeys, AsyncTenants, KeyList, TenantList
from headrace_client.contracts.headrace.quota.v1 import tenants_pb2
from headrace_client.loop_thread import LoopThread


class Tenants:
    """Tenants, for operators; see `AsyncTenants` for what arguments and answers mean."""

    def __init__(self, tenants: AsyncTenants, loop: LoopThread) -> None:
        self._tenants = tenants
        self._loop = loop

    def create(
        self,
        tenant: str,
        *,
        display_name: str = "",
        tier: str = "",
        metadata: Mapping[str, str] | None = None,
        isolation: str = "shared",
    ) -> tenants_pb2.Tenant:
        """Register a tenant; repeating it with the same fields changes nothing."""
        return self._loop.run(
            self._tenants.create(tenant, display_name=display_name, tier=tier, metadata=metadata, isolation=isolation)
        )

    def get(self, tenant: str = "") -> tenants_pb2.Tenant:
        """One tenant; empty means the caller's own."""
        return self._loop.run(self._tenants.get(tenant))

    def list(self) -> TenantList:
        """All tenants, ordered by id."""
        return self._loop.run(self._tenants.list())

    def update(
        self,
        tenant: str,
        *,
        display_name: str | None = None,
        tier: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        isolation: str | None = None,
    ) -> tenants_pb2.Tenant:
        """Change what is given and nothing else, at every gateway within 5 s. A pair of None is taken away."""
        return self._loop.run(
            self._tenants.update(tenant, display_name=display_name, tier=tier, metadata=metadata, isolation=isolation)
        )

    def suspend(self, tenant: str) -> tenants_pb2.Tenant:
        """Have all its calls refused, at every gateway within 5 s."""
        return self._loop.run(self._tenants.suspend(tenant))

    def resume(self, tenant: str) -> tenants_pb2.Tenant:
        """End a suspension."""
        return self._loop.run(self._tenants.resume(tenant))


class Keys:
    """API keys, for admins; see `AsyncKeys` for what arguments and answers mean."""

    def __init__(self, keys: AsyncKeys, loop: LoopThread) -> None:
        self._keys = keys
        self._loop = loop

    def create(
        self,
        *,
        tenant: str = "",
        display_name: str = "",
        roles: Sequence[str] = ("user",),
        expire_time: datetime | None = None,
        allow: Sequence[str] = (),
    ) -> tenants_pb2.CreateApiKeyResponse:
        """Make a key. The answer's `key` is shown this once. Never retried: a lost answer may have made a key."""
        return self._loop.run(
            self._keys.create(
                tenant=tenant, display_name=display_name, roles=roles, expire_time=expire_time, allow=allow
            )
        )

    def list(self, tenant: str = "") -> KeyList:
        """All keys of a tenant, the newest first, revoked ones included; never the keys themselves."""
        return self._loop.run(self._keys.list(tenant))

    def revoke(self, key_id: str) -> tenants_pb2.ApiKey:
        """End a key for good, at every gateway within 5 s. Takes the key's id, not the key."""
        return self._loop.run(self._keys.revoke(key_id))

    def rotate(
        self, key_id: str, *, overlap: timedelta | None = None, expire_time: datetime | None = None
    ) -> tenants_pb2.RotateApiKeyResponse:
        """Make a key that may do the same as another one, which works for a while yet (None: a day). Never retried."""
        return self._loop.run(self._keys.rotate(key_id, overlap=overlap, expire_time=expire_time))
