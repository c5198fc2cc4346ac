"""Plans and usage as the contract shows them."""

from __future__ import annotations

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_quota.limit_messages import limit_message
from headrace_quota.messages import timestamp
from headrace_quota.plans import Plan
from headrace_quota.quota_administration import LimitUse
from headrace_quota.quota_store import CalendarUse, QuotaStatistics


def plan_message(plan: Plan) -> pb.Plan:
    """A plan as the contract shows it."""
    return pb.Plan(
        name=plan.name,
        display_name=plan.display_name,
        limits=[limit_message(limit) for limit in plan.limits],
        aggregate_streams=plan.aggregate_streams,
        create_time=timestamp(plan.create_time),
        update_time=timestamp(plan.update_time),
    )


def usage_message(use: LimitUse | CalendarUse) -> pb.LimitUsage:
    """How a limit stands, as the contract shows it."""
    return pb.LimitUsage(
        limit=limit_message(use.limit.limit),
        used=use.used,
        held=use.held,
        window_start=timestamp(use.window_start) if use.window_start is not None else None,
        reset_time=timestamp(use.window_end) if use.window_end is not None else None,
        own=use.limit.own,
    )


def statistics_message(statistics: QuotaStatistics) -> pb.GetQuotaStatisticsResponse:
    """How near tenants are to their limits, as the contract shows it."""
    return pb.GetQuotaStatisticsResponse(
        tenants_limited=statistics.tenants_limited,
        tenants_exhausted=statistics.tenants_exhausted,
        nearest=[
            pb.TenantUsage(tenant_id=near.tenant_id, usage=usage_message(near.use)) for near in statistics.nearest
        ],
    )
