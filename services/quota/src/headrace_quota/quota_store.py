"""The port between plans, limits and usage, and where they are kept. Two adapters keep it: PostgreSQL and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from headrace_quota.limits import EffectiveLimit, Limit, Resource, Window
from headrace_quota.plans import Plan, PlanDraft


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What holds for a tenant: the name of its plan, which may not exist, and the limits in order of their keys."""

    plan: str
    limits: tuple[EffectiveLimit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarUse:
    """How a calendar quota stands in one window.

    Attributes:
        used: By settled calls; may pass the amount.
        held: By gateways, for calls to come and calls under way.
    """

    limit: EffectiveLimit
    used: int
    held: int
    window_start: datetime
    window_end: datetime


@dataclass(frozen=True, slots=True)
class TenantUse:
    """How one of a tenant's calendar quotas stands."""

    tenant_id: str
    use: CalendarUse


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaStatistics:
    """How near tenants are to their limits.

    Attributes:
        tenants_limited: Tenants that have any limit.
        tenants_exhausted: Tenants that have used up a calendar quota.
        nearest: Of each tenant the calendar quota with the highest part used; highest first.
    """

    tenants_limited: int
    tenants_exhausted: int
    nearest: Sequence[TenantUse]


class QuotaStore(Protocol):
    """Plans, limits, and what is used of calendar quotas. Every method is one transaction.

    All methods raise `StorageUnavailable` (UNAVAILABLE) while the store can't be reached; a write that fails so may
    or may not have taken effect. Setting what is there already changes nothing, and tells gateways nothing.
    """

    async def set_plan(self, draft: PlanDraft) -> Plan:
        """The stored plan, made or changed to be as drafted; all its tenants have the new limits at once."""
        ...

    async def plan(self, name: str, *, tenant_id: str | None) -> Plan | None:
        """One plan, or None. With a tenant every plan but the one that it is on is absent."""
        ...

    async def plans(self, *, after_name: str, limit: int) -> Sequence[Plan]:
        """Up to `limit` plans ordered by name, beginning after `after_name` (empty: at the start)."""
        ...

    async def delete_plan(self, name: str) -> bool:
        """Whether there was such a plan; it is gone.

        Raises:
            QuotaError: PLAN_IN_USE: a tenant is on it.
        """
        ...

    async def set_limits(self, tenant_id: str, limits: Sequence[Limit]) -> bool:
        """Whether there is such a tenant; its own limits are these."""
        ...

    async def limits(self, tenant_id: str) -> TenantLimits | None:
        """What holds for a tenant, or None."""
        ...

    async def calendar_use(self, tenant_id: str, *, at: datetime) -> Sequence[CalendarUse]:
        """How each calendar quota of a tenant stands in the window of an instant, in order of the limits' keys."""
        ...

    async def reset_use(
        self, tenant_id: str, *, model: str, resource: Resource | None, window: Window | None, at: datetime
    ) -> int:
        """How many counters of the windows of an instant were set to nothing. No model, resource or window: any."""
        ...

    async def statistics(self, *, tenants_max: int, at: datetime) -> QuotaStatistics:
        """How near tenants are to their limits in the windows of an instant. O(limits of all tenants)."""
        ...

    async def forget_ended_windows(self) -> int:
        """How many counters of windows that ended long ago were removed."""
        ...
