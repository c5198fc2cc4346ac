"""`headrace.quota.v1.QuotaService`: translate, ask the administration, translate back."""

from __future__ import annotations

from typing import Any

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common.grpc_server import Call, RpcMethod, unary
from headrace_quota.limit_messages import limit_message, limits_from, resource_from, window_from
from headrace_quota.paging import page_of, page_size, plan_position, plan_token
from headrace_quota.quota_administration import QuotaAdministration
from headrace_quota.quota_messages import plan_message, statistics_message, usage_message

QUOTA_SERVICE = "headrace.quota.v1.QuotaService"
# As in the tenant servicer: a foreign tenant must look absent before any role is looked at.
_DECIDED_INSIDE = "any"


class QuotaServicer:
    """Answers the public RPCs about plans, limits and usage. What each raises, the administration's methods say."""

    def __init__(self, *, administration: QuotaAdministration) -> None:
        self._administration = administration

    async def set_plan(self, request: pb.SetPlanRequest, call: Call) -> pb.SetPlanResponse:
        """Makes a plan or changes it."""
        plan = await self._administration.set_plan(
            call.principal,
            name=request.plan.name,
            display_name=request.plan.display_name,
            limits=limits_from(request.plan.limits, field="plan.limits"),
            aggregate_streams=request.plan.aggregate_streams,
        )
        return pb.SetPlanResponse(plan=plan_message(plan))

    async def get_plan(self, request: pb.GetPlanRequest, call: Call) -> pb.GetPlanResponse:
        """Shows one plan."""
        return pb.GetPlanResponse(plan=plan_message(await self._administration.plan(call.principal, request.name)))

    async def list_plans(self, request: pb.ListPlansRequest, call: Call) -> pb.ListPlansResponse:
        """Shows a page of plans; reads one row more than shown to know whether another page follows."""
        size = page_size(request.page_size)
        rows = await self._administration.plans(
            call.principal, after_name=plan_position(request.page_token), limit=size + 1
        )
        shown, last = page_of(rows, size)
        return pb.ListPlansResponse(
            plans=[plan_message(plan) for plan in shown],
            next_page_token=plan_token(last.name) if last is not None else "",
        )

    async def delete_plan(self, request: pb.DeletePlanRequest, call: Call) -> pb.DeletePlanResponse:
        """Takes a plan away."""
        await self._administration.delete_plan(call.principal, request.name)
        return pb.DeletePlanResponse()

    async def set_limits(self, request: pb.SetLimitsRequest, call: Call) -> pb.SetLimitsResponse:
        """Replaces a tenant's own limits."""
        limits = await self._administration.set_limits(
            call.principal, request.tenant_id, limits_from(request.limits, field="limits")
        )
        return pb.SetLimitsResponse(limits=[limit_message(limit) for limit in limits])

    async def get_limits(self, request: pb.GetLimitsRequest, call: Call) -> pb.GetLimitsResponse:
        """Shows what holds for a tenant."""
        held = await self._administration.limits(call.principal, request.tenant_id)
        return pb.GetLimitsResponse(
            plan=held.plan,
            limits=[limit_message(each.limit) for each in held.limits],
            own_limits=[limit_message(each.limit) for each in held.limits if each.own],
        )

    async def get_quota_usage(self, request: pb.GetQuotaUsageRequest, call: Call) -> pb.GetQuotaUsageResponse:
        """Shows how a tenant's limits stand."""
        uses = await self._administration.usage(call.principal, request.tenant_id)
        return pb.GetQuotaUsageResponse(usages=[usage_message(use) for use in uses])

    async def reset_quota_usage(self, request: pb.ResetQuotaUsageRequest, call: Call) -> pb.ResetQuotaUsageResponse:
        """Sets calendar counters to nothing."""
        counters = await self._administration.reset_usage(
            call.principal,
            request.tenant_id,
            model=request.model,
            resource=resource_from(request.resource, field="resource") if request.resource else None,
            window=window_from(request.window, field="window") if request.window else None,
        )
        return pb.ResetQuotaUsageResponse(counters=counters)

    async def get_quota_statistics(
        self, request: pb.GetQuotaStatisticsRequest, call: Call
    ) -> pb.GetQuotaStatisticsResponse:
        """Shows which tenants are nearest to their limits."""
        return statistics_message(
            await self._administration.statistics(call.principal, tenants_max=request.tenants_max)
        )

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """The methods by name, for the service's handler."""
        role = _DECIDED_INSIDE
        return {
            "SetPlan": unary(self.set_plan, pb.SetPlanRequest, pb.SetPlanResponse, role=role),
            "GetPlan": unary(self.get_plan, pb.GetPlanRequest, pb.GetPlanResponse, role=role),
            "ListPlans": unary(self.list_plans, pb.ListPlansRequest, pb.ListPlansResponse, role=role),
            "DeletePlan": unary(self.delete_plan, pb.DeletePlanRequest, pb.DeletePlanResponse, role=role),
            "SetLimits": unary(self.set_limits, pb.SetLimitsRequest, pb.SetLimitsResponse, role=role),
            "GetLimits": unary(self.get_limits, pb.GetLimitsRequest, pb.GetLimitsResponse, role=role),
            "GetQuotaUsage": unary(self.get_quota_usage, pb.GetQuotaUsageRequest, pb.GetQuotaUsageResponse, role=role),
            "ResetQuotaUsage": unary(
                self.reset_quota_usage, pb.ResetQuotaUsageRequest, pb.ResetQuotaUsageResponse, role=role
            ),
            "GetQuotaStatistics": unary(
                self.get_quota_statistics, pb.GetQuotaStatisticsRequest, pb.GetQuotaStatisticsResponse, role=role
            ),
        }
