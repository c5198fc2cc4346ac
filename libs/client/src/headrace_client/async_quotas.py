"""Plans, limits, and what is used of them, with asyncio."""

from __future__ import annotations

from collections.abc import Iterable

from headrace_client import rpcs
from headrace_client.contracts.headrace.quota.v1 import quotas_pb2
from headrace_client.errors import ValidationError
from headrace_client.limit_texts import limit_of
from headrace_client.transport import Transport

Limits = Iterable[quotas_pb2.Limit | str]
"""Limits, or texts such as `requests=1000/day`; see `limit_of`."""
PlanList = list[quotas_pb2.Plan]
LimitList = list[quotas_pb2.Limit]
UsageList = list[quotas_pb2.LimitUsage]
_PAGE_SIZE = 1000


class AsyncQuotas:
    """Plans and limits. Reading what is one's own tenant's needs the role `viewer`; all else is for operators."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def set_plan(
        self, name: str, limits: Limits, *, display_name: str = "", aggregate_streams: bool = False
    ) -> quotas_pb2.Plan:
        """Make a plan, or replace all of it; its tenants have the new limits at every gateway within 5 s.

        Args:
            name: The tier of its tenants names it.
            limits: All its limits.
            display_name: Name for people.
            aggregate_streams: Whether usage of packed streams is written by model and second instead of by call.
        """
        plan = quotas_pb2.Plan(
            name=name, display_name=display_name, limits=_messages(limits), aggregate_streams=aggregate_streams
        )
        return (await self._transport.unary(rpcs.SET_PLAN, quotas_pb2.SetPlanRequest(plan=plan))).plan

    async def plan(self, name: str) -> quotas_pb2.Plan:
        """One plan; who isn't an operator sees that of the own tenant."""
        return (await self._transport.unary(rpcs.GET_PLAN, quotas_pb2.GetPlanRequest(name=name))).plan

    async def plans(self) -> PlanList:
        """All plans, ordered by name."""
        request = quotas_pb2.ListPlansRequest(page_size=_PAGE_SIZE)
        return [plan async for page in self._transport.pages(rpcs.LIST_PLANS, request) for plan in page.plans]

    async def delete_plan(self, name: str) -> None:
        """Take a plan away that no tenant is on."""
        await self._transport.unary(rpcs.DELETE_PLAN, quotas_pb2.DeletePlanRequest(name=name))

    async def set_limits(self, tenant: str, limits: Limits) -> LimitList:
        """Replace all of a tenant's own limits, at every gateway within 5 s; none leaves those of its plan."""
        request = quotas_pb2.SetLimitsRequest(tenant_id=tenant, limits=_messages(limits))
        return list((await self._transport.unary(rpcs.SET_LIMITS, request)).limits)

    async def limits(self, tenant: str = "") -> quotas_pb2.GetLimitsResponse:
        """The limits that hold for a tenant, and which of them are its own; empty means the caller's tenant."""
        return await self._transport.unary(rpcs.GET_LIMITS, quotas_pb2.GetLimitsRequest(tenant_id=tenant))

    async def usage(self, tenant: str = "") -> UsageList:
        """How each limit of a tenant stands now; empty means the caller's tenant."""
        request = quotas_pb2.GetQuotaUsageRequest(tenant_id=tenant)
        return list((await self._transport.unary(rpcs.GET_QUOTA_USAGE, request)).usages)

    async def reset(self, tenant: str, *, model: str = "", resource: str = "", window: str = "") -> int:
        """Set what is used of calendar quotas to nothing; the ledger keeps its rows.

        Args:
            tenant: Whose.
            model: Only the counters of this model.
            resource: Only those of `requests`, `tokens`, `input_bytes` or `device_ms`.
            window: Only those of `hour`, `day` or `month`.

        Returns:
            How many counters.
        """
        request = quotas_pb2.ResetQuotaUsageRequest(
            tenant_id=tenant,
            model=model,
            resource=_resource(resource),
            window=_window(window),
        )
        return (await self._transport.unary(rpcs.RESET_QUOTA_USAGE, request)).counters

    async def statistics(self, tenants_max: int = 20) -> quotas_pb2.GetQuotaStatisticsResponse:
        """The tenants that are nearest to a limit."""
        request = quotas_pb2.GetQuotaStatisticsRequest(tenants_max=tenants_max)
        return await self._transport.unary(rpcs.GET_QUOTA_STATISTICS, request)


def _messages(limits: Limits) -> LimitList:
    return [limit_of(limit) if isinstance(limit, str) else limit for limit in limits]


def _resource(name: str) -> quotas_pb2.Resource.ValueType:
    try:
        return quotas_pb2.Resource.Value(f"RESOURCE_{name.upper()}" if name else "RESOURCE_UNSPECIFIED")
    except ValueError:
        raise ValidationError(f"there is no resource '{name[:80]}'", field="resource") from None


def _window(name: str) -> quotas_pb2.Window.ValueType:
    try:
        return quotas_pb2.Window.Value(f"WINDOW_{name.upper()}" if name else "WINDOW_UNSPECIFIED")
    except ValueError:
        raise ValidationError(f"there is no window '{name[:80]}'", field="window") from None
