"""What each caller may do to tenants and keys: decided here, before and after one call of the store.

Operators are the admins of the tenant `default`. Everybody else meets only their own tenant; whatever belongs to
another one is answered exactly as if it did not exist, before roles are looked at: a refusal of the role would tell
that there is something to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from random import Random

from headrace_common.clock import Clock
from headrace_common.principal import Principal
from headrace_quota.api_keys import (
    ApiKey,
    KeyMaterial,
    Role,
    Rotation,
    check_expiry,
    checked_key_id,
    draft_key,
    key_not_found,
)
from headrace_quota.resource_policies import ResourcePolicy
from headrace_quota.store import KeyPosition, TenantStore
from headrace_quota.tenant_access import is_operator, require_admin, require_operator, visible_tenant
from headrace_quota.tenant_change import TenantChange
from headrace_quota.tenants import (
    OPERATORS_TENANT,
    Isolation,
    Tenant,
    TenantDraft,
    TenantStatus,
    check_tenant_id,
    tenant_already_exists,
    tenant_not_found,
    tenant_protected,
)


class TenantAdministration:
    """The rules of tenants and keys over a store.

    All methods raise `StorageUnavailable` (UNAVAILABLE) while the store can't be reached.
    """

    def __init__(self, *, store: TenantStore, clock: Clock, random: Random, active_keys_max: int) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._active_keys_max = active_keys_max

    async def create_tenant(
        self,
        caller: Principal,
        *,
        tenant_id: str,
        display_name: str,
        tier: str,
        metadata: Mapping[str, str],
        isolation: Isolation = Isolation.SHARED,
    ) -> Tenant:
        """The new tenant, or the stored one where it has just these fields.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator.
            ValidationError: INVALID_ARGUMENT, naming the field and its limit.
            TenantError: TENANT_ID_INVALID (INVALID_ARGUMENT), TENANT_ALREADY_EXISTS (ALREADY_EXISTS).
        """
        require_operator(caller)
        draft = TenantDraft.checked(
            tenant_id=tenant_id, display_name=display_name, tier=tier, metadata=metadata, isolation=isolation
        )
        tenant, created = await self._store.insert_tenant(draft)
        if not created and not draft.describes(tenant):
            raise tenant_already_exists(tenant_id)
        return tenant

    async def tenant(self, caller: Principal, tenant_id: str) -> Tenant:
        """A tenant; the caller's own where no id is given.

        Raises:
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for absent and foreign ones.
        """
        wanted = visible_tenant(caller, tenant_id, field="id")
        tenant = await self._store.tenant(wanted)
        if tenant is None:
            raise tenant_not_found(wanted)
        return tenant

    async def tenants(self, caller: Principal, *, after_id: str, limit: int) -> Sequence[Tenant]:
        """A page of tenants, ordered by id.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator.
        """
        require_operator(caller)
        return await self._store.tenants(after_id=after_id, limit=limit)

    async def set_status(self, caller: Principal, tenant_id: str, status: TenantStatus) -> Tenant:
        """The tenant with the status set.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator, about their own tenant.
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for absent and foreign tenants, TENANT_PROTECTED
                (FAILED_PRECONDITION) for suspending the operators' tenant.
        """
        check_tenant_id(tenant_id, field="id")
        visible_tenant(caller, tenant_id, field="id")
        require_operator(caller)
        if status is TenantStatus.SUSPENDED and tenant_id == OPERATORS_TENANT:
            raise tenant_protected(tenant_id)
        tenant = await self._store.set_tenant_status(tenant_id, status)
        if tenant is None:
            raise tenant_not_found(tenant_id)
        return tenant

    async def update_tenant(self, caller: Principal, change: TenantChange) -> Tenant:
        """The tenant with the change made.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator, about their own tenant.
            ValidationError: FIELD_TOO_LONG (INVALID_ARGUMENT): with the new pairs the metadata has too many.
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for absent and foreign tenants.
        """
        visible_tenant(caller, change.tenant_id, field="tenant.id")
        require_operator(caller)
        tenant = await self._store.update_tenant(change)
        if tenant is None:
            raise tenant_not_found(change.tenant_id)
        return tenant

    async def create_api_key(
        self,
        caller: Principal,
        *,
        tenant_id: str,
        display_name: str,
        roles: Iterable[Role],
        expire_time: datetime | None,
        policies: Sequence[ResourcePolicy] = (),
    ) -> tuple[ApiKey, str]:
        """What is stored of a new key, and the key itself.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an admin.
            ValidationError: INVALID_ARGUMENT, naming the field and its limit.
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for absent and foreign tenants, KEY_LIMIT_REACHED
                (RESOURCE_EXHAUSTED), TENANT_SUSPENDED (PERMISSION_DENIED) unless an operator asks.
        """
        owner = _administered_tenant(caller, tenant_id)
        material = KeyMaterial.mint(self._random)
        draft = draft_key(
            material=material,
            tenant_id=owner,
            display_name=display_name,
            roles=roles,
            expire_time=expire_time,
            now=self._clock.now(),
            policies=policies,
        )
        stored = await self._store.insert_api_key(
            draft, active_keys_max=self._active_keys_max, even_if_suspended=is_operator(caller)
        )
        return stored, material.key

    async def api_keys(
        self, caller: Principal, *, tenant_id: str, after: KeyPosition | None, limit: int
    ) -> Sequence[ApiKey]:
        """A page of a tenant's keys, newest first.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an admin.
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for absent and foreign tenants.
        """
        owner = _administered_tenant(caller, tenant_id)
        keys = await self._store.api_keys(owner, after=after, limit=limit)
        if not keys and await self._store.tenant(owner) is None:
            raise tenant_not_found(owner)
        return keys

    async def revoke_api_key(self, caller: Principal, key_id: str) -> ApiKey:
        """The key, now revoked.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an admin, whatever the id.
            ValidationError: INVALID_ARGUMENT where the id is no UUID.
            TenantError: KEY_NOT_FOUND (NOT_FOUND) for absent and foreign keys.
        """
        require_admin(caller)
        wanted = checked_key_id(key_id)
        scope = None if is_operator(caller) else caller.tenant_id
        key = await self._store.revoke_api_key(wanted, tenant_id=scope)
        if key is None:
            raise key_not_found(wanted)
        return key

    async def rotate_api_key(
        self, caller: Principal, key_id: str, *, overlap: timedelta, expire_time: datetime | None
    ) -> tuple[ApiKey, str, ApiKey]:
        """What is stored of the new key, the new key itself, and the former one with its end.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an admin, whatever the id.
            ValidationError: INVALID_ARGUMENT where the id is no UUID, or the end of the new key is past.
            TenantError: KEY_NOT_FOUND (NOT_FOUND) for absent and foreign keys, KEY_ENDED (FAILED_PRECONDITION),
                KEY_LIMIT_REACHED (RESOURCE_EXHAUSTED), TENANT_SUSPENDED (PERMISSION_DENIED) unless an operator asks.
        """
        require_admin(caller)
        wanted = checked_key_id(key_id)
        check_expiry(expire_time, self._clock.now())
        operator = is_operator(caller)
        material = KeyMaterial.mint(self._random)
        rotated = await self._store.rotate_api_key(
            Rotation(former_id=wanted, material=material, overlap=overlap, expire_time=expire_time),
            tenant_id=None if operator else caller.tenant_id,
            active_keys_max=self._active_keys_max,
            even_if_suspended=operator,
        )
        if rotated is None:
            raise key_not_found(wanted)
        stored, former = rotated
        return stored, material.key, former


def _administered_tenant(caller: Principal, tenant_id: str) -> str:
    """The tenant whose keys are meant, if the caller may manage them."""
    wanted = visible_tenant(caller, tenant_id, field="tenant_id")
    require_admin(caller)
    return wanted
