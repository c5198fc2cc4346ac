"""The twin of the PostgreSQL adapters in memory, for tests: it keeps the same contract, and forgets when it goes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from headrace_common.clock import Clock
from headrace_common.features import switches
from headrace_common.revision_feed import FeedHead
from headrace_quota.api_keys import ApiKey, KeyDraft, Rotation, key_limit_reached
from headrace_quota.limits import Limit
from headrace_quota.principal_history import Change, KeyState, Snapshot, TenantState
from headrace_quota.store import KeyPosition
from headrace_quota.tenant_change import TenantChange
from headrace_quota.tenants import (
    Tenant,
    TenantDraft,
    TenantStatus,
    tenant_not_found,
    tenant_suspended,
)


@dataclass(frozen=True, slots=True)
class _Entry:
    revision: int
    tenant_id: str
    key_id: str | None


class MemoryTenantStore:
    """A `TenantStore` and a `PrincipalHistory` in one event loop; no method awaits, so each is atomic."""

    def __init__(self, *, clock: Clock, changes_kept: int = 10_000, dead_keys_shown_s: float = 2_592_000) -> None:
        self._clock = clock
        self._changes_kept = changes_kept
        self._dead_keys_shown_s = dead_keys_shown_s
        self._epoch = str(uuid.uuid4())
        self._revision = 0
        self._history: list[_Entry] = []
        self._tenants: dict[str, Tenant] = {}
        self._keys: dict[str, ApiKey] = {}
        self.limits_of: Callable[[Tenant], tuple[tuple[Limit, ...], bool]] = _no_limits

    async def insert_tenant(self, draft: TenantDraft) -> tuple[Tenant, bool]:
        stored = self._tenants.get(draft.id)
        if stored is not None:
            return stored, False
        now = self._clock.now()
        tenant = Tenant(
            id=draft.id,
            display_name=draft.display_name,
            status=TenantStatus.ACTIVE,
            tier=draft.tier,
            metadata=dict(draft.metadata),
            isolation=draft.isolation,
            create_time=now,
            update_time=now,
        )
        self._tenants[draft.id] = tenant
        self._record(draft.id, None)
        return tenant, True

    async def tenant(self, tenant_id: str) -> Tenant | None:
        return self._tenants.get(tenant_id)

    async def tenants(self, *, after_id: str, limit: int) -> Sequence[Tenant]:
        ids = sorted(tenant_id for tenant_id in self._tenants if tenant_id > after_id)
        return [self._tenants[tenant_id] for tenant_id in ids[:limit]]

    async def set_tenant_status(self, tenant_id: str, status: TenantStatus) -> Tenant | None:
        tenant = self._tenants.get(tenant_id)
        if tenant is None or tenant.status is status:
            return tenant
        changed = replace(tenant, status=status, update_time=self._clock.now())
        self._tenants[tenant_id] = changed
        self._record(tenant_id, None)
        return changed

    async def update_tenant(self, change: TenantChange) -> Tenant | None:
        tenant = self._tenants.get(change.tenant_id)
        if tenant is None:
            return None
        changed = change.of(tenant)
        if changed == tenant:
            return tenant
        now = self._clock.now()
        self._tenants[tenant.id] = replace(changed, update_time=now)
        if _told(changed) != _told(tenant):
            self._record(tenant.id, None)
        return self._tenants[tenant.id]

    async def insert_api_key(self, draft: KeyDraft, *, active_keys_max: int, even_if_suspended: bool) -> ApiKey:
        self._check_owner(draft.tenant_id, even_if_suspended=even_if_suspended)
        self._check_room(draft.tenant_id, active_keys_max, besides=None)
        return self._store_key(draft)

    async def adopt_api_key(self, draft: KeyDraft) -> ApiKey | None:
        for key in self._keys.values():
            if key.sha256 == draft.sha256:
                return key if key.tenant_id == draft.tenant_id else None
        return self._store_key(draft)

    async def api_keys(self, tenant_id: str, *, after: KeyPosition | None, limit: int) -> Sequence[ApiKey]:
        keys = sorted(
            (key for key in self._keys.values() if key.tenant_id == tenant_id),
            key=lambda key: (key.create_time, key.id),
            reverse=True,
        )
        if after is not None:
            position = (after.create_time, after.key_id)
            keys = [key for key in keys if (key.create_time, key.id) < position]
        return keys[:limit]

    async def revoke_api_key(self, key_id: str, *, tenant_id: str | None) -> ApiKey | None:
        key = self._keys.get(key_id)
        if key is None or (tenant_id is not None and key.tenant_id != tenant_id):
            return None
        if key.revoke_time is not None:
            return key
        revoked = replace(key, revoke_time=self._clock.now())
        self._keys[key_id] = revoked
        self._record(key.tenant_id, key_id)
        return revoked

    async def rotate_api_key(
        self, rotation: Rotation, *, tenant_id: str | None, active_keys_max: int, even_if_suspended: bool
    ) -> tuple[ApiKey, ApiKey] | None:
        former = self._keys.get(rotation.former_id)
        if former is None or (tenant_id is not None and former.tenant_id != tenant_id):
            return None
        self._check_owner(former.tenant_id, even_if_suspended=even_if_suspended)
        now = self._clock.now()
        draft = rotation.draft(former, now)
        ending = replace(former, expire_time=rotation.former_ends(former, now))
        self._check_room(former.tenant_id, active_keys_max, besides=None if ending.works_at(now) else former.id)
        self._keys[former.id] = ending
        if ending != former:
            self._record(former.tenant_id, former.id)
        return self._store_key(draft), ending

    async def head(self) -> FeedHead:
        compacted = self._history[0].revision - 1 if self._history else self._revision
        return FeedHead(epoch=self._epoch, revision=self._revision, compacted=compacted)

    async def changes(self, *, after_revision: int, limit: int) -> Sequence[Change]:
        later = [entry for entry in self._history if entry.revision > after_revision]
        return [Change(entry.revision, self._state(entry)) for entry in later[:limit]]

    async def snapshot(self) -> Snapshot:
        since = self._clock.now() - timedelta(seconds=self._dead_keys_shown_s)
        return Snapshot(
            head=await self.head(),
            tenants=[self._tenant_state(tenant) for _, tenant in sorted(self._tenants.items())],
            keys=[_key_state(key) for key in self._keys.values() if _worked_after(key, since)],
        )

    def on_tier(self, tier: str) -> list[Tenant]:
        """The tenants that are on a tier."""
        return [tenant for _, tenant in sorted(self._tenants.items()) if tenant.tier == tier]

    def record_tenants(self, tenant_ids: Iterable[str]) -> None:
        """Tells that each of these tenants changed."""
        for tenant_id in tenant_ids:
            self._record(tenant_id, None)

    def _check_owner(self, tenant_id: str, *, even_if_suspended: bool) -> None:
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            raise tenant_not_found(tenant_id)
        if tenant.status is TenantStatus.SUSPENDED and not even_if_suspended:
            raise tenant_suspended(tenant_id)

    def _check_room(self, tenant_id: str, active_keys_max: int, *, besides: str | None) -> None:
        now = self._clock.now()
        active = [
            key for key in self._keys.values() if key.tenant_id == tenant_id and key.works_at(now) and key.id != besides
        ]
        if len(active) >= active_keys_max:
            raise key_limit_reached(tenant_id, active_keys_max)

    def _store_key(self, draft: KeyDraft) -> ApiKey:
        key = ApiKey(
            id=draft.id,
            tenant_id=draft.tenant_id,
            display_name=draft.display_name,
            prefix=draft.prefix,
            sha256=draft.sha256,
            roles=draft.roles,
            create_time=self._clock.now(),
            expire_time=draft.expire_time,
            revoke_time=None,
            policies=draft.policies,
            rotated_from=draft.rotated_from,
        )
        self._keys[key.id] = key
        self._record(key.tenant_id, key.id)
        return key

    def _record(self, tenant_id: str, key_id: str | None) -> None:
        self._revision += 1
        self._history.append(_Entry(self._revision, tenant_id, key_id))
        del self._history[: -self._changes_kept]

    def _state(self, entry: _Entry) -> TenantState | KeyState:
        if entry.key_id is None:
            return self._tenant_state(self._tenants[entry.tenant_id])
        return _key_state(self._keys[entry.key_id])

    def _tenant_state(self, tenant: Tenant) -> TenantState:
        limits, aggregate_streams = self.limits_of(tenant)
        return TenantState(
            tenant_id=tenant.id,
            status=tenant.status,
            tier=tenant.tier,
            limits=limits,
            aggregate_streams=aggregate_streams,
            features=switches(tenant.metadata),
            isolation=tenant.isolation,
        )


def _no_limits(tenant: Tenant) -> tuple[tuple[Limit, ...], bool]:
    return (), False


def _told(tenant: Tenant) -> object:
    return tenant.status, tenant.tier, tenant.isolation, dict(tenant.metadata)


def _worked_after(key: ApiKey, since: datetime) -> bool:
    ends = [time for time in (key.revoke_time, key.expire_time) if time is not None]
    return not ends or min(ends) > since


def _key_state(key: ApiKey) -> KeyState:
    return KeyState(
        key_id=key.id,
        tenant_id=key.tenant_id,
        sha256=key.sha256,
        roles=key.roles,
        expire_time=key.expire_time,
        revoked=key.revoke_time is not None,
        policies=key.policies,
    )
