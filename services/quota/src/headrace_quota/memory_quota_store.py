"""The twin of the PostgreSQL quota store in memory, for tests: it keeps the same contract, and forgets when it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from headrace_common.clock import Clock
from headrace_quota.calendar_windows import window_bounds
from headrace_quota.limits import EffectiveLimit, Limit, Resource, Window, effective_limits
from headrace_quota.memory_store import MemoryTenantStore
from headrace_quota.plans import Plan, PlanDraft, plan_in_use
from headrace_quota.quota_store import CalendarUse, QuotaStatistics, TenantLimits, TenantUse
from headrace_quota.tenants import Tenant

_RETENTION = timedelta(days=62)


@dataclass(frozen=True, slots=True)
class _Counter:
    tenant_id: str
    model: str
    resource: Resource
    window: Window
    start: datetime


class MemoryQuotaStore:
    """A `QuotaStore` over the tenants of a `MemoryTenantStore`, whose feed tells of limits from then on."""

    def __init__(self, *, tenants: MemoryTenantStore, clock: Clock) -> None:
        self._tenants = tenants
        self._clock = clock
        self._plans: dict[str, Plan] = {}
        self._own: dict[str, tuple[Limit, ...]] = {}
        self._used: dict[_Counter, int] = {}
        tenants.limits_of = self._told

    async def set_plan(self, draft: PlanDraft) -> Plan:
        now = self._clock.now()
        stored = self._plans.get(draft.name)
        plan = Plan(
            name=draft.name,
            display_name=draft.display_name,
            limits=draft.limits,
            aggregate_streams=draft.aggregate_streams,
            create_time=stored.create_time if stored is not None else now,
            update_time=stored.update_time if stored is not None else now,
        )
        if plan != stored:
            self._plans[draft.name] = replace(plan, update_time=now)
            self._tenants.record_tenants(tenant.id for tenant in self._tenants.on_tier(draft.name))
        return self._plans[draft.name]

    async def plan(self, name: str, *, tenant_id: str | None) -> Plan | None:
        if tenant_id is not None:
            tenant = await self._tenants.tenant(tenant_id)
            if tenant is None or tenant.tier != name:
                return None
        return self._plans.get(name)

    async def plans(self, *, after_name: str, limit: int) -> Sequence[Plan]:
        return [plan for name, plan in sorted(self._plans.items()) if name > after_name][:limit]

    async def delete_plan(self, name: str) -> bool:
        if name not in self._plans:
            return False
        if self._tenants.on_tier(name):
            raise plan_in_use(name)
        del self._plans[name]
        return True

    async def set_limits(self, tenant_id: str, limits: Sequence[Limit]) -> bool:
        if await self._tenants.tenant(tenant_id) is None:
            return False
        wanted = tuple(sorted(limits, key=lambda limit: limit.key))
        if wanted != self._own.get(tenant_id, ()):
            self._own[tenant_id] = wanted
            self._tenants.record_tenants((tenant_id,))
        return True

    async def limits(self, tenant_id: str) -> TenantLimits | None:
        tenant = await self._tenants.tenant(tenant_id)
        return TenantLimits(tenant.tier, self._effective(tenant)) if tenant is not None else None

    async def calendar_use(self, tenant_id: str, *, at: datetime) -> Sequence[CalendarUse]:
        tenant = await self._tenants.tenant(tenant_id)
        return self._calendar(tenant, at) if tenant is not None else []

    async def reset_use(
        self, tenant_id: str, *, model: str, resource: Resource | None, window: Window | None, at: datetime
    ) -> int:
        tenant = await self._tenants.tenant(tenant_id)
        if tenant is None:
            return 0
        present = {
            counter
            for counter in self._used
            if counter.tenant_id == tenant_id and counter.start == window_bounds(counter.window, at)[0]
        }
        present.update(_counter(tenant_id, use.limit.limit, at) for use in self._calendar(tenant, at))
        meant = [
            counter
            for counter in present
            if model in ("", counter.model)
            and resource in (None, counter.resource)
            and window in (None, counter.window)
        ]
        self._used.update((counter, 0) for counter in meant)
        return len(meant)

    async def statistics(self, *, tenants_max: int, at: datetime) -> QuotaStatistics:
        tenants = await self._tenants.tenants(after_id="", limit=1 << 30)
        uses = {tenant.id: self._calendar(tenant, at) for tenant in tenants}
        nearest = [
            TenantUse(tenant_id, min(used, key=lambda use: (-_part(use), use.limit.limit.key)))
            for tenant_id, of_tenant in uses.items()
            if (used := [use for use in of_tenant if use.used > 0])
        ]
        nearest.sort(key=lambda near: (-_part(near.use), near.tenant_id))
        return QuotaStatistics(
            tenants_limited=sum(1 for tenant in tenants if self._effective(tenant)),
            tenants_exhausted=sum(1 for of_tenant in uses.values() if any(_part(use) >= 1 for use in of_tenant)),
            nearest=nearest[:tenants_max],
        )

    async def forget_ended_windows(self) -> int:
        limit = self._clock.now() - _RETENTION
        gone = [counter for counter in self._used if window_bounds(counter.window, counter.start)[1] < limit]
        for counter in gone:
            del self._used[counter]
        return len(gone)

    async def count_use(self, tenant_id: str, model: str, resource: Resource, amount: int, at: datetime) -> None:
        """What the ledger does in PostgreSQL with `increment_quota_usage`."""
        tenant = await self._tenants.tenant(tenant_id)
        if tenant is None or amount <= 0:
            return
        counted = {
            _counter(tenant_id, use.limit.limit, at)
            for use in self._calendar(tenant, at)
            if use.limit.limit.resource is resource and use.limit.limit.model in ("", model)
        }
        counted.update(
            counter
            for counter in self._used
            if (counter.tenant_id, counter.resource) == (tenant_id, resource)
            and counter.model in ("", model)
            and counter.start == window_bounds(counter.window, at)[0]
        )
        for counter in counted:
            self._used[counter] = self._used.get(counter, 0) + amount

    def _told(self, tenant: Tenant) -> tuple[tuple[Limit, ...], bool]:
        plan = self._plans.get(tenant.tier)
        limits = tuple(held.limit for held in self._effective(tenant))
        return limits, plan is not None and plan.aggregate_streams

    def _effective(self, tenant: Tenant) -> tuple[EffectiveLimit, ...]:
        plan = self._plans.get(tenant.tier)
        return effective_limits(self._own.get(tenant.id, ()), plan.limits if plan is not None else ())

    def _calendar(self, tenant: Tenant, at: datetime) -> list[CalendarUse]:
        uses: list[CalendarUse] = []
        for held in self._effective(tenant):
            if held.limit.window.calendar:
                start, end = window_bounds(held.limit.window, at)
                used = self._used.get(_counter(tenant.id, held.limit, at), 0)
                uses.append(CalendarUse(limit=held, used=used, held=0, window_start=start, window_end=end))
        return uses


def _counter(tenant_id: str, limit: Limit, at: datetime) -> _Counter:
    return _Counter(tenant_id, limit.model, limit.resource, limit.window, window_bounds(limit.window, at)[0])


def _part(use: CalendarUse) -> float:
    return use.used / use.limit.limit.amount
