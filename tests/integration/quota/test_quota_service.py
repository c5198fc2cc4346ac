"""Plans, limits and usage over gRPC: what is written, who may, and what is refused."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import psycopg
import pytest
from google.protobuf.message import Message

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common.errors import HeadraceError
from support.quota import OPERATOR, Keys, QuotaClient, admin_of, running_quota

DAILY = pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_DAY, amount=100)
RATE = pb.Limit(resource=pb.RESOURCE_TOKENS, window=pb.WINDOW_RATE, amount=10)
CONCURRENCY = pb.Limit(resource=pb.RESOURCE_CONCURRENCY, window=pb.WINDOW_MOMENT, amount=3)
ADMIN, USER = admin_of("acme"), admin_of("acme", "user")


@pytest.fixture(autouse=True)
async def tenants(client: QuotaClient) -> None:
    for tenant_id in ("acme", "rival"):
        await client.create_tenant(tenant_id)


async def refusal(call: Awaitable[Any]) -> HeadraceError:
    with pytest.raises(HeadraceError) as refused:
        await call
    return refused.value


def with_limits(*limits: pb.Limit, tenant: str = "acme") -> pb.SetLimitsRequest:
    return pb.SetLimitsRequest(tenant_id=tenant, limits=limits)


def changed(limit: pb.Limit, **fields: Any) -> pb.Limit:
    copy = pb.Limit()
    copy.CopyFrom(limit)
    copy.MergeFrom(pb.Limit(**fields))
    return copy


async def test_limits_are_stored_whole_and_shown_with_those_of_the_plan(client: QuotaClient) -> None:
    plan = pb.Plan(name="standard", limits=[DAILY, changed(DAILY, window=pb.WINDOW_MONTH)], aggregate_streams=True)
    await client.call(OPERATOR, pb.SetPlanRequest(plan=plan))
    stored = await client.call(OPERATOR, with_limits(RATE, changed(DAILY, amount=7)))
    found = await client.call(USER, pb.GetLimitsRequest())
    assert found.plan == "standard"
    assert list(found.own_limits) == list(stored.limits)
    assert [(limit.window, limit.amount, limit.burst) for limit in found.limits] == [
        (pb.WINDOW_DAY, 7, 0),
        (pb.WINDOW_MONTH, 100, 0),
        (pb.WINDOW_RATE, 10, 10),
    ]
    cleared = await client.call(OPERATOR, with_limits())
    assert list(cleared.limits) == []
    again = await client.call(USER, pb.GetLimitsRequest(tenant_id="acme"))
    assert [limit.amount for limit in again.limits] == [100, 100]


async def test_limits_reach_who_follows_the_feed(client: QuotaClient) -> None:
    feed = client.watch()
    snapshot = await anext(feed)
    await client.call(OPERATOR, with_limits(DAILY))
    await client.call(OPERATOR, pb.SetPlanRequest(plan=pb.Plan(name="standard", aggregate_streams=True)))
    seen: dict[str, Any] = {}
    async for message in feed:
        seen.update((tenant.tenant_id, tenant) for tenant in message.tenants)
        if {"default", "acme", "rival"} <= {key for key, tenant in seen.items() if tenant.aggregate_streams}:
            break
    assert snapshot.snapshot
    assert (list(seen["acme"].limits), list(seen["rival"].limits)) == ([DAILY], [])


async def test_usage_says_used_since_when_and_until_when(client: QuotaClient, database_url: str) -> None:
    await client.call(OPERATOR, with_limits(DAILY, changed(DAILY, model="m")))
    with psycopg.connect(database_url) as superuser:
        for model, amount in (("m", 3), ("n", 4)):
            superuser.execute("SELECT quota.increment_quota_usage('acme', %s, 'REQUESTS', %s, now())", (model, amount))
    usages = (await client.call(USER, pb.GetQuotaUsageRequest())).usages
    assert [(use.limit.model, use.used, use.held, use.own) for use in usages] == [("", 7, 0, True), ("m", 3, 0, True)]
    assert {use.reset_time.seconds - use.window_start.seconds for use in usages} == {86_400}
    nearest = (await client.call(OPERATOR, pb.GetQuotaStatisticsRequest())).nearest
    assert [(near.tenant_id, near.usage.used) for near in nearest] == [("acme", 7)]
    reset = pb.ResetQuotaUsageRequest(tenant_id="acme", model="m", resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_DAY)
    assert (await client.call(OPERATOR, reset)).counters == 1
    usages = (await client.call(USER, pb.GetQuotaUsageRequest())).usages
    assert [use.used for use in usages] == [7, 0]


async def test_use_that_nobody_can_tell_is_absent(client: QuotaClient) -> None:
    await client.call(OPERATOR, with_limits(RATE, CONCURRENCY, DAILY))
    usages = (await client.call(USER, pb.GetQuotaUsageRequest())).usages
    assert {use.limit.window: use.HasField("used") for use in usages} == {
        pb.WINDOW_RATE: False,
        pb.WINDOW_MOMENT: False,
        pb.WINDOW_DAY: True,
    }


async def test_untouched_rates_and_concurrency_are_at_nothing(database_url: str, keys: Keys, valkey_url: str) -> None:
    async with running_quota(database_url, keys, redis_url=valkey_url) as quota:
        await quota.client.call(OPERATOR, with_limits(RATE, CONCURRENCY))
        usages = (await quota.client.call(USER, pb.GetQuotaUsageRequest())).usages
        assert [(use.HasField("used"), use.used, use.held) for use in usages] == [(True, 0, 0), (True, 0, 0)]


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        (changed(DAILY, amount=-1), "limits[1].amount"),
        (pb.Limit(resource=pb.RESOURCE_TOKENS, window=pb.WINDOW_DAY), "limits[1].amount"),
        (changed(DAILY, amount=10**15 + 1), "limits[1].amount"),
        (changed(DAILY, amount=2**63 - 1), "limits[1].amount"),
        (pb.Limit(window=pb.WINDOW_DAY, amount=1), "limits[1].resource"),
        (changed(DAILY, resource=77), "limits[1].resource"),
        (pb.Limit(resource=pb.RESOURCE_TOKENS, amount=1), "limits[1].window"),
        (changed(DAILY, window=77), "limits[1].window"),
        (changed(RATE, algorithm=77), "limits[1].algorithm"),
        (changed(DAILY, model="a\0b"), "limits[1].model"),
        (changed(DAILY, amount=5), "limits[1]"),
    ],
)
async def test_bad_limit_is_refused_by_its_field_and_nothing_is_stored(
    client: QuotaClient, limit: pb.Limit, field: str
) -> None:
    failure = await refusal(client.call(OPERATOR, with_limits(DAILY, limit)))
    assert (failure.entry.grpc, failure.field) == ("INVALID_ARGUMENT", field)
    plan = pb.SetPlanRequest(plan=pb.Plan(name="gold", limits=[DAILY, limit]))
    failure = await refusal(client.call(OPERATOR, plan))
    assert (failure.entry.grpc, failure.field) == ("INVALID_ARGUMENT", f"plan.{field}")
    assert not (await client.call(USER, pb.GetLimitsRequest())).limits
    assert not (await client.call(OPERATOR, pb.ListPlansRequest())).plans


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SetPlanRequest(), "plan.name"),
        (pb.SetPlanRequest(plan=pb.Plan(name="Gold")), "plan.name"),
        (pb.SetPlanRequest(plan=pb.Plan(name="g" * 64)), "plan.name"),
        (pb.SetPlanRequest(plan=pb.Plan(name="gold", display_name="x" * 257)), "plan.display_name"),
        (pb.SetPlanRequest(plan=pb.Plan(name="gold", limits=[DAILY] * 101)), "plan.limits"),
        (pb.GetPlanRequest(), "name"),
        (pb.GetPlanRequest(name="a\0"), "name"),
        (pb.DeletePlanRequest(name="../x"), "name"),
        (pb.ListPlansRequest(page_size=-1), "page_size"),
        (pb.ListPlansRequest(page_size=1001), "page_size"),
        (pb.ListPlansRequest(page_token="x"), "page_token"),
        (pb.SetLimitsRequest(), "tenant_id"),
        (pb.SetLimitsRequest(tenant_id="Bad Id"), "tenant_id"),
        (pb.GetLimitsRequest(tenant_id="a\0"), "tenant_id"),
        (pb.GetQuotaUsageRequest(tenant_id="x" * 64), "tenant_id"),
        (pb.ResetQuotaUsageRequest(), "tenant_id"),
        (pb.ResetQuotaUsageRequest(tenant_id="acme", window=pb.WINDOW_RATE), "window"),
        (pb.ResetQuotaUsageRequest(tenant_id="acme", window=99), "window"),  # pyright: ignore[reportArgumentType]
        (pb.ResetQuotaUsageRequest(tenant_id="acme", resource=99), "resource"),  # pyright: ignore[reportArgumentType]
        (pb.ResetQuotaUsageRequest(tenant_id="acme", model="a\0b"), "model"),
        (pb.GetQuotaStatisticsRequest(tenants_max=-1), "tenants_max"),
        (pb.GetQuotaStatisticsRequest(tenants_max=1001), "tenants_max"),
    ],
)
async def test_bad_request_is_refused_by_its_field(client: QuotaClient, request_: Message, field: str) -> None:
    failure = await refusal(client.call(OPERATOR, request_))
    assert (failure.entry.grpc, failure.field) == ("INVALID_ARGUMENT", field)


@pytest.mark.parametrize(
    "kind", [pb.SetLimitsRequest, pb.GetLimitsRequest, pb.GetQuotaUsageRequest, pb.ResetQuotaUsageRequest]
)
async def test_foreign_tenant_is_absent_to_every_role(client: QuotaClient, kind: type[Message]) -> None:
    def told(failure: HeadraceError, tenant: str) -> tuple[str, str]:
        return failure.reason, failure.message.replace(tenant, "?")

    for caller in (ADMIN, USER, admin_of("acme", "viewer")):
        foreign = await refusal(client.call(caller, kind(tenant_id="rival")))
        absent = await refusal(client.call(caller, kind(tenant_id="ghost")))
        assert told(foreign, "rival") == told(absent, "ghost") == ("TENANT_NOT_FOUND", "tenant '?' was not found")
    assert (await refusal(client.call(OPERATOR, kind(tenant_id="ghost")))).reason == "TENANT_NOT_FOUND"


@pytest.mark.parametrize(
    "request_",
    [
        with_limits(DAILY),
        pb.ResetQuotaUsageRequest(tenant_id="acme"),
        pb.SetPlanRequest(plan=pb.Plan(name="gold")),
        pb.DeletePlanRequest(name="gold"),
        pb.ListPlansRequest(),
        pb.GetQuotaStatisticsRequest(),
    ],
)
async def test_only_operators_write_and_see_all(client: QuotaClient, request_: Message) -> None:
    for caller in (ADMIN, USER, admin_of("default", "user")):
        assert (await refusal(client.call(caller, request_))).reason in {"ROLE_FORBIDDEN", "TENANT_NOT_FOUND"}
    assert (await refusal(client.call(ADMIN, request_))).reason == "ROLE_FORBIDDEN"


async def test_plan_of_others_looks_like_one_that_is_not_there(client: QuotaClient) -> None:
    for name in ("standard", "gold"):
        await client.call(OPERATOR, pb.SetPlanRequest(plan=pb.Plan(name=name, limits=[DAILY])))
    assert (await client.call(USER, pb.GetPlanRequest(name="standard"))).plan.limits
    foreign = await refusal(client.call(ADMIN, pb.GetPlanRequest(name="gold")))
    absent = await refusal(client.call(ADMIN, pb.GetPlanRequest(name="none")))
    assert foreign.reason == absent.reason == "PLAN_NOT_FOUND"
    assert foreign.message.replace("gold", "?") == absent.message.replace("none", "?")
    in_use = await refusal(client.call(OPERATOR, pb.DeletePlanRequest(name="standard")))
    assert (in_use.reason, in_use.entry.grpc) == ("PLAN_IN_USE", "FAILED_PRECONDITION")
    await client.call(OPERATOR, pb.DeletePlanRequest(name="gold"))
