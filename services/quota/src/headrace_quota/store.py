"""The port between tenants and where they are kept. Two adapters keep it: PostgreSQL and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from headrace_quota.api_keys import ApiKey, KeyDraft, Rotation
from headrace_quota.tenant_change import TenantChange
from headrace_quota.tenants import Tenant, TenantDraft, TenantStatus


@dataclass(frozen=True, slots=True)
class KeyPosition:
    """Where a listing of keys, newest first, goes on: after the key with this creation time and id."""

    create_time: datetime
    key_id: str


class TenantStore(Protocol):
    """Tenants and keys. Every method is one transaction.

    All methods raise `StorageUnavailable` (UNAVAILABLE) while the store can't be reached; a write that fails so may
    or may not have taken effect. `tenant_id` is also the scope: rows of other tenants don't exist for the call.
    """

    async def insert_tenant(self, draft: TenantDraft) -> tuple[Tenant, bool]:
        """The stored tenant, and whether this call made it; one that was there stays as it is."""
        ...

    async def tenant(self, tenant_id: str) -> Tenant | None:
        """One tenant, or None."""
        ...

    async def tenants(self, *, after_id: str, limit: int) -> Sequence[Tenant]:
        """Up to `limit` tenants ordered by id, beginning after `after_id` (empty: at the start)."""
        ...

    async def set_tenant_status(self, tenant_id: str, status: TenantStatus) -> Tenant | None:
        """The tenant with the status set, or None. Setting the status it has changes nothing, not even its time."""
        ...

    async def update_tenant(self, change: TenantChange) -> Tenant | None:
        """The tenant with the change made, or None. A change to what is there changes nothing, not even its time.

        Raises:
            ValidationError: FIELD_TOO_LONG: with the new pairs the metadata has too many.
        """
        ...

    async def insert_api_key(self, draft: KeyDraft, *, active_keys_max: int, even_if_suspended: bool) -> ApiKey:
        """The stored key. Keys that are revoked or expired don't count against `active_keys_max`.

        Raises:
            TenantError: TENANT_NOT_FOUND, TENANT_SUSPENDED (unless `even_if_suspended`) or KEY_LIMIT_REACHED.
        """
        ...

    async def adopt_api_key(self, draft: KeyDraft) -> ApiKey | None:
        """The key with the draft's digest in the draft's tenant, stored first if there is none.

        One that is there stays as it is, also a revoked one. None when another tenant has a key with that digest.
        """
        ...

    async def api_keys(self, tenant_id: str, *, after: KeyPosition | None, limit: int) -> Sequence[ApiKey]:
        """Up to `limit` keys of a tenant, newest first, revoked ones included, beginning after a position."""
        ...

    async def revoke_api_key(self, key_id: str, *, tenant_id: str | None) -> ApiKey | None:
        """The key, now revoked, or None. A key that was revoked before keeps its time. No tenant means any."""
        ...

    async def rotate_api_key(
        self, rotation: Rotation, *, tenant_id: str | None, active_keys_max: int, even_if_suspended: bool
    ) -> tuple[ApiKey, ApiKey] | None:
        """The new key, and the former one with its end; or None where there is no such key. No tenant means any.

        Raises:
            TenantError: KEY_ENDED, TENANT_SUSPENDED (unless `even_if_suspended`) or KEY_LIMIT_REACHED: a former key
                that ends at once doesn't count.
        """
        ...
