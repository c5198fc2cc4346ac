"""Calls of the public RPCs about plans, limits and usage."""

from __future__ import annotations

import secrets

from headrace.quota.v1 import quotas_pb2 as pb
from support.refusals import refusal_of
from support.rpc_cases import World, case

QUOTAS = "headrace.quota.v1.QuotaService"


def daily(amount: int = 1000, *, model: str = "") -> pb.Limit:
    """A limit of requests a day."""
    return pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_DAY, amount=amount, model=model)


def new_plan(world: World, *limits: pb.Limit) -> pb.Plan:
    """A plan that nobody else uses."""
    plan = pb.Plan(name=f"plan-{secrets.token_hex(6)}", limits=limits)
    return world.operator(world.operator.quotas.SetPlan, pb.SetPlanRequest(plan=plan)).plan


@case(f"{QUOTAS}/SetPlan")
def set_plan(world: World) -> None:
    rate = pb.Limit(resource=pb.RESOURCE_TOKENS, window=pb.WINDOW_RATE, amount=50)
    plan = new_plan(world, daily(), rate)
    assert plan.display_name == plan.name
    (kept, filled) = sorted(plan.limits, key=lambda limit: limit.amount, reverse=True)
    assert kept == daily()
    assert (filled.burst, filled.period.seconds, filled.algorithm) == (50, 1, pb.RATE_ALGORITHM_GCRA)
    again = pb.SetPlanRequest(plan=pb.Plan(name=plan.name, limits=[daily(5)], aggregate_streams=True))
    changed = world.operator(world.operator.quotas.SetPlan, again).plan
    assert (list(changed.limits), changed.aggregate_streams) == ([daily(5)], True)
    refused = refusal_of(lambda: world.owner(world.owner.quotas.SetPlan, again))
    assert refused.reason == "ROLE_FORBIDDEN"


@case(f"{QUOTAS}/GetPlan")
def get_plan(world: World) -> None:
    plan = new_plan(world, daily())
    wanted = pb.GetPlanRequest(name=plan.name)
    assert world.operator(world.operator.quotas.GetPlan, wanted).plan == plan
    refused = refusal_of(lambda: world.owner(world.owner.quotas.GetPlan, wanted))
    assert refused.reason == "PLAN_NOT_FOUND"


@case(f"{QUOTAS}/ListPlans")
def list_plans(world: World) -> None:
    names = {new_plan(world).name for _ in range(3)}
    found: list[str] = []
    token = ""
    while True:
        page = world.operator(world.operator.quotas.ListPlans, pb.ListPlansRequest(page_size=2, page_token=token))
        found += [plan.name for plan in page.plans]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(set(found)) and names <= set(found)


@case(f"{QUOTAS}/DeletePlan")
def delete_plan(world: World) -> None:
    wanted = pb.DeletePlanRequest(name=new_plan(world, daily()).name)
    world.operator(world.operator.quotas.DeletePlan, wanted)
    gone = refusal_of(lambda: world.operator(world.operator.quotas.DeletePlan, wanted))
    assert gone.reason == "PLAN_NOT_FOUND"


@case(f"{QUOTAS}/SetLimits")
def set_limits(world: World) -> None:
    tenant = world.operator.tenant()
    wanted = pb.SetLimitsRequest(tenant_id=tenant.id, limits=[daily(), daily(5, model="tiny")])
    stored = world.operator(world.operator.quotas.SetLimits, wanted)
    assert list(stored.limits) == list(wanted.limits)
    refused = refusal_of(lambda: tenant.admin(tenant.admin.quotas.SetLimits, wanted))
    assert refused.reason == "ROLE_FORBIDDEN"


@case(f"{QUOTAS}/GetLimits")
def get_limits(world: World) -> None:
    tenant = world.operator.tenant()
    world.operator(world.operator.quotas.SetLimits, pb.SetLimitsRequest(tenant_id=tenant.id, limits=[daily()]))
    found = tenant.admin(tenant.admin.quotas.GetLimits, pb.GetLimitsRequest())
    assert (found.plan, list(found.limits), list(found.own_limits)) == ("standard", [daily()], [daily()])


@case(f"{QUOTAS}/GetQuotaUsage")
def get_quota_usage(world: World) -> None:
    tenant = world.operator.tenant()
    world.operator(world.operator.quotas.SetLimits, pb.SetLimitsRequest(tenant_id=tenant.id, limits=[daily()]))
    (usage,) = tenant.admin(tenant.admin.quotas.GetQuotaUsage, pb.GetQuotaUsageRequest()).usages
    assert (usage.limit, usage.used, usage.own) == (daily(), 0, True)
    assert usage.reset_time.seconds - usage.window_start.seconds == 86_400


@case(f"{QUOTAS}/ResetQuotaUsage")
def reset_quota_usage(world: World) -> None:
    tenant = world.operator.tenant()
    world.operator(world.operator.quotas.SetLimits, pb.SetLimitsRequest(tenant_id=tenant.id, limits=[daily()]))
    wanted = pb.ResetQuotaUsageRequest(tenant_id=tenant.id)
    assert world.operator(world.operator.quotas.ResetQuotaUsage, wanted).counters == 1


@case(f"{QUOTAS}/GetQuotaStatistics")
def get_quota_statistics(world: World) -> None:
    tenant = world.operator.tenant()
    world.operator(world.operator.quotas.SetLimits, pb.SetLimitsRequest(tenant_id=tenant.id, limits=[daily()]))
    found = world.operator(world.operator.quotas.GetQuotaStatistics, pb.GetQuotaStatisticsRequest())
    assert found.tenants_limited >= 1
