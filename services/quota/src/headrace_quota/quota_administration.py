"""What each caller may do to plans, limits and usage: decided here, around one call of the store.

Operators write; everybody else reads what is their own tenant's. Whatever belongs to another tenant is answered exactly
as if it did not exist, before roles are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import ValidationError
from headrace_common.principal import Principal
from headrace_quota.limits import EffectiveLimit, Limit, LimitKey, Resource, Window, check_model, checked_limits
from headrace_quota.live_usage import LiveUsage
from headrace_quota.plans import Plan, PlanDraft, check_plan_name, plan_not_found
from headrace_quota.quota_store import CalendarUse, QuotaStatistics, QuotaStore, TenantLimits
from headrace_quota.tenant_access import is_operator, require_operator, visible_tenant
from headrace_quota.tenants import check_tenant_id, tenant_not_found

TENANTS_DEFAULT = 20
TENANTS_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitUse:
    """How a limit stands. Only calendar quotas have a window; `used` is None where nobody can tell."""

    limit: EffectiveLimit
    used: int | None
    held: int
    window_start: datetime | None = None
    window_end: datetime | None = None


class QuotaAdministration:
    """The rules of plans and limits over a store.

    All methods raise `StorageUnavailable` (UNAVAILABLE) while the store can't be reached.
    """

    def __init__(self, *, store: QuotaStore, live: LiveUsage, clock: Clock) -> None:
        self._store = store
        self._live = live
        self._clock = clock

    async def set_plan(
        self, caller: Principal, *, name: str, display_name: str, limits: Sequence[Limit], aggregate_streams: bool
    ) -> Plan:
        """The plan as stored.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator.
            ValidationError: INVALID_ARGUMENT, naming the field and its limit.
        """
        require_operator(caller)
        draft = PlanDraft.checked(
            name=name, display_name=display_name, limits=limits, aggregate_streams=aggregate_streams, field="plan"
        )
        return await self._store.set_plan(draft)

    async def plan(self, caller: Principal, name: str) -> Plan:
        """A plan; operators see all, everybody else the one that their tenant is on.

        Raises:
            ValidationError: INVALID_ARGUMENT where the name is none.
            QuotaError: PLAN_NOT_FOUND (NOT_FOUND) for absent plans and those of others.
        """
        check_plan_name(name, field="name")
        plan = await self._store.plan(name, tenant_id=None if is_operator(caller) else caller.tenant_id)
        if plan is None:
            raise plan_not_found(name)
        return plan

    async def plans(self, caller: Principal, *, after_name: str, limit: int) -> Sequence[Plan]:
        """A page of plans, ordered by name.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator.
        """
        require_operator(caller)
        return await self._store.plans(after_name=after_name, limit=limit)

    async def delete_plan(self, caller: Principal, name: str) -> None:
        """Takes a plan away.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator.
            ValidationError: INVALID_ARGUMENT where the name is none.
            QuotaError: PLAN_NOT_FOUND (NOT_FOUND), PLAN_IN_USE (FAILED_PRECONDITION).
        """
        require_operator(caller)
        check_plan_name(name, field="name")
        if not await self._store.delete_plan(name):
            raise plan_not_found(name)

    async def set_limits(self, caller: Principal, tenant_id: str, limits: Sequence[Limit]) -> Sequence[Limit]:
        """The tenant's own limits as stored.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator, about their own tenant.
            ValidationError: INVALID_ARGUMENT, naming the field and its limit.
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for absent and foreign tenants.
        """
        self._check_writable(caller, tenant_id)
        checked = checked_limits(limits, field="limits")
        if not await self._store.set_limits(tenant_id, checked):
            raise tenant_not_found(tenant_id)
        return checked

    async def limits(self, caller: Principal, tenant_id: str) -> TenantLimits:
        """What holds for a tenant; for the caller's own where no id is given.

        Raises:
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for absent and foreign tenants.
        """
        wanted = visible_tenant(caller, tenant_id, field="tenant_id")
        held = await self._store.limits(wanted)
        if held is None:
            raise tenant_not_found(wanted)
        return held

    async def usage(self, caller: Principal, tenant_id: str) -> Sequence[LimitUse]:
        """How each limit of a tenant stands, in order of the limits' keys.

        Raises:
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for absent and foreign tenants.
        """
        wanted = visible_tenant(caller, tenant_id, field="tenant_id")
        held = await self.limits(caller, wanted)
        uses = {
            use.limit.limit.key: _calendar_use(use)
            for use in await self._store.calendar_use(wanted, at=self._clock.now())
        }
        live = [limit for limit in held.limits if not limit.limit.window.calendar]
        if live:
            uses.update(await self._live_uses(wanted, live))
        return [uses[key] for key in sorted(uses)]

    async def reset_usage(
        self, caller: Principal, tenant_id: str, *, model: str, resource: Resource | None, window: Window | None
    ) -> int:
        """How many counters of calendar quotas were set to nothing; the ledger keeps its rows.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator, about their own tenant.
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT) for a window without counters, or no model's name.
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for absent and foreign tenants.
        """
        self._check_writable(caller, tenant_id)
        check_model(model, field="model")
        if window is not None and not window.calendar:
            raise ValidationError(
                "window must be HOUR, DAY or MONTH, or left out for all of them",
                entry=catalogue.FIELD_INVALID,
                context={"field": "window"},
                field="window",
            )
        await self.limits(caller, tenant_id)
        return await self._store.reset_use(
            tenant_id, model=model, resource=resource, window=window, at=self._clock.now()
        )

    async def statistics(self, caller: Principal, *, tenants_max: int) -> QuotaStatistics:
        """How near tenants are to their limits; 0 tenants mean 20.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator.
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT) outside of 0 to 1000 tenants.
        """
        require_operator(caller)
        if not 0 <= tenants_max <= TENANTS_MAX:
            raise ValidationError(
                f"tenants_max must be 1 to {TENANTS_MAX}, or 0 for {TENANTS_DEFAULT}",
                entry=catalogue.FIELD_INVALID,
                context={"field": "tenants_max", "limit": TENANTS_MAX},
                field="tenants_max",
            )
        return await self._store.statistics(tenants_max=tenants_max or TENANTS_DEFAULT, at=self._clock.now())

    async def _live_uses(self, tenant_id: str, limits: Sequence[EffectiveLimit]) -> dict[LimitKey, LimitUse]:
        known = await self._live.read(tenant_id, [held.limit for held in limits])
        uses: dict[LimitKey, LimitUse] = {}
        for held in limits:
            use = known.get(held.limit.key)
            uses[held.limit.key] = LimitUse(
                limit=held, used=use.used if use is not None else None, held=use.held if use is not None else 0
            )
        return uses

    def _check_writable(self, caller: Principal, tenant_id: str) -> None:
        check_tenant_id(tenant_id, field="tenant_id")
        visible_tenant(caller, tenant_id, field="tenant_id")
        require_operator(caller)


def _calendar_use(use: CalendarUse) -> LimitUse:
    return LimitUse(
        limit=use.limit, used=use.used, held=use.held, window_start=use.window_start, window_end=use.window_end
    )
