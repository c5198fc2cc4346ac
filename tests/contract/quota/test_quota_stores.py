"""One suite over the quota store in memory and the one in PostgreSQL: both keep the same promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from headrace_common.clock import SystemClock
from headrace_common.errors import QuotaError
from headrace_common.postgres import Database
from headrace_quota.limits import Limit, RateAlgorithm, Resource, Window, checked_limits
from headrace_quota.memory_quota_store import MemoryQuotaStore
from headrace_quota.memory_store import MemoryTenantStore
from headrace_quota.plans import PlanDraft
from headrace_quota.postgres_history import PostgresPrincipalHistory
from headrace_quota.postgres_quota_store import PostgresQuotaStore
from headrace_quota.postgres_store import PostgresTenantStore
from headrace_quota.principal_history import PrincipalHistory, TenantState
from headrace_quota.quota_store import QuotaStore
from headrace_quota.store import TenantStore
from headrace_quota.tenants import TenantDraft

NOON = datetime(2026, 2, 28, 12, 34, 56, 789, tzinfo=UTC)
AMOUNT_MAX = 10**15

Count = Callable[[str, str, Resource, int, datetime], Awaitable[None]]


@dataclass(frozen=True)
class Stores:
    quotas: QuotaStore
    tenants: TenantStore
    history: PrincipalHistory
    count: Count


@pytest.fixture(params=["memory", "postgres"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    if request.param == "memory":
        tenants = MemoryTenantStore(clock=SystemClock())
        quotas = MemoryQuotaStore(tenants=tenants, clock=SystemClock())
        yield Stores(quotas, tenants, tenants, quotas.count_use)
        return
    url: str = request.getfixturevalue("quota_database_url")
    async with Database(url=url, service="quota") as database:

        async def count(tenant_id: str, model: str, resource: Resource, amount: int, at: datetime) -> None:
            async with database.service() as connection:
                await connection.execute(
                    "SELECT quota.increment_quota_usage(%s, %s, %s, %s, %s)",
                    (tenant_id, model, resource.value, amount, at),
                )

        yield Stores(
            PostgresQuotaStore(database=database),
            PostgresTenantStore(database=database),
            PostgresPrincipalHistory(database=database, dead_keys_shown_s=3600),
            count,
        )


def limit(
    resource: Resource = Resource.REQUESTS, window: Window = Window.DAY, amount: int = 100, model: str = ""
) -> Limit:
    return Limit(model=model, resource=resource, window=window, amount=amount)


def rate(amount: int = 10, algorithm: RateAlgorithm = RateAlgorithm.GCRA, model: str = "") -> Limit:
    wanted = Limit(
        model=model, resource=Resource.TOKENS, window=Window.RATE, amount=amount, period_ms=2500, algorithm=algorithm
    )
    return checked_limits([wanted], field="limits")[0]


def plan(*limits: Limit, name: str = "gold", display_name: str = "", aggregate: bool = False) -> PlanDraft:
    return PlanDraft.checked(
        name=name, display_name=display_name, limits=limits, aggregate_streams=aggregate, field="plan"
    )


async def tenant(stores: Stores, tenant_id: str = "acme", tier: str = "gold") -> None:
    await stores.tenants.insert_tenant(
        TenantDraft.checked(tenant_id=tenant_id, display_name="", tier=tier, metadata={})
    )


async def used(stores: Stores, tenant_id: str = "acme", at: datetime = NOON) -> dict[tuple[str, str, str], int]:
    return {
        (use.limit.limit.model, use.limit.limit.resource.value, use.limit.limit.window.value): use.used
        for use in await stores.quotas.calendar_use(tenant_id, at=at)
    }


async def told(stores: Stores, after_revision: int) -> list[TenantState]:
    states = [change.state for change in await stores.history.changes(after_revision=after_revision, limit=100)]
    assert all(isinstance(state, TenantState) for state in states)
    return [state for state in states if isinstance(state, TenantState)]


async def test_plan_is_stored_as_drafted(stores: Stores) -> None:
    draft = plan(
        rate(algorithm=RateAlgorithm.SLIDING_WINDOW),
        rate(model="m"),
        limit(Resource.CONCURRENCY, Window.MOMENT, AMOUNT_MAX),
        *(limit(Resource.DEVICE_MS, window) for window in (Window.HOUR, Window.DAY, Window.MONTH)),
        display_name="Gold %s 'plan'",
        aggregate=True,
    )
    stored = await stores.quotas.set_plan(draft)
    assert (stored.name, stored.display_name, stored.limits) == (draft.name, draft.display_name, draft.limits)
    assert stored.aggregate_streams
    assert stored.create_time == stored.update_time
    assert await stores.quotas.plan("gold", tenant_id=None) == stored


async def test_setting_a_plan_again_changes_nothing_and_another_one_replaces_it(stores: Stores) -> None:
    await tenant(stores)
    first = await stores.quotas.set_plan(plan(limit(), rate()))
    revision = (await stores.history.head()).revision
    assert await stores.quotas.set_plan(plan(rate(), limit())) == first
    assert (await stores.history.head()).revision == revision
    second = await stores.quotas.set_plan(plan(replace(limit(), amount=5)))
    assert second.limits == (replace(limit(), amount=5),)
    assert second.create_time == first.create_time
    assert second.update_time > first.update_time
    assert (await stores.history.head()).revision == revision + 1


async def test_plans_are_listed_by_name_in_pages(stores: Stores) -> None:
    for name in ("b", "a-b", "a1", "ab"):
        await stores.quotas.set_plan(plan(name=name))
    assert [found.name for found in await stores.quotas.plans(after_name="", limit=10)] == ["a-b", "a1", "ab", "b"]
    assert [found.name for found in await stores.quotas.plans(after_name="a-b", limit=2)] == ["a1", "ab"]


async def test_tenant_sees_no_plan_but_its_own(stores: Stores) -> None:
    await tenant(stores, "acme", "gold")
    for name in ("gold", "silver"):
        await stores.quotas.set_plan(plan(limit(), name=name))
    mine = await stores.quotas.plan("gold", tenant_id="acme")
    assert mine is not None
    assert mine.limits == (limit(),)
    assert await stores.quotas.plan("silver", tenant_id="acme") is None
    assert await stores.quotas.plan("gold", tenant_id="ghost") is None


async def test_plan_with_tenants_stays(stores: Stores) -> None:
    await stores.quotas.set_plan(plan(limit()))
    await tenant(stores)
    with pytest.raises(QuotaError) as refused:
        await stores.quotas.delete_plan("gold")
    assert refused.value.reason == "PLAN_IN_USE"
    await stores.quotas.set_plan(plan(limit(), name="free"))
    assert await stores.quotas.delete_plan("free")
    assert not await stores.quotas.delete_plan("free")
    assert [found.name for found in await stores.quotas.plans(after_name="", limit=10)] == ["gold"]


async def test_own_limits_go_before_those_of_the_plan(stores: Stores) -> None:
    await tenant(stores)
    await stores.quotas.set_plan(plan(limit(), limit(window=Window.HOUR), limit(model="m")))
    assert await stores.quotas.set_limits("acme", [limit(amount=7), rate()])
    held = await stores.quotas.limits("acme")
    assert held is not None
    assert held.plan == "gold"
    assert [(each.limit, each.own) for each in held.limits] == [
        (limit(amount=7), True),
        (limit(window=Window.HOUR), False),
        (rate(), True),
        (limit(model="m"), False),
    ]
    assert await stores.quotas.set_limits("acme", [])
    held = await stores.quotas.limits("acme")
    assert held is not None
    assert not any(each.own for each in held.limits)


async def test_absent_tenant_has_no_limits(stores: Stores) -> None:
    assert await stores.quotas.limits("ghost") is None
    assert not await stores.quotas.set_limits("ghost", [limit()])
    assert await stores.quotas.calendar_use("ghost", at=NOON) == []
    assert await stores.quotas.reset_use("ghost", model="", resource=None, window=None, at=NOON) == 0


async def test_feed_tells_every_tenant_of_a_plan_once_with_what_holds_for_it(stores: Stores) -> None:
    await tenant(stores, "acme")
    await tenant(stores, "rival")
    await tenant(stores, "other", "free")
    await stores.quotas.set_limits("rival", [limit(amount=1)])
    before = (await stores.history.head()).revision
    await stores.quotas.set_plan(plan(limit(), rate(), aggregate=True))
    states = await told(stores, before)
    assert sorted((state.tenant_id, state.limits, state.aggregate_streams) for state in states) == [
        ("acme", (limit(), rate()), True),
        ("rival", (limit(amount=1), rate()), True),
    ]
    snapshot = {state.tenant_id: state for state in (await stores.history.snapshot()).tenants}
    assert snapshot["acme"].limits == (limit(), rate())
    assert (snapshot["other"].limits, snapshot["other"].aggregate_streams) == ((), False)


async def test_feed_tells_of_own_limits_once_and_not_of_what_stays(stores: Stores) -> None:
    await tenant(stores)
    before = (await stores.history.head()).revision
    await stores.quotas.set_limits("acme", [limit(), rate()])
    await stores.quotas.set_limits("acme", [rate(), limit()])
    assert [state.limits for state in await told(stores, before)] == [(limit(), rate())]
    await stores.quotas.set_limits("acme", [limit(amount=3), rate()])
    await stores.quotas.set_limits("acme", [])
    assert [state.limits for state in await told(stores, before)][-1] == ()
    assert (await stores.history.head()).revision == before + 3


async def test_use_counts_in_the_windows_of_its_admission_for_the_model_and_for_all(stores: Stores) -> None:
    await tenant(stores)
    windows = (Window.HOUR, Window.DAY, Window.MONTH)
    await stores.quotas.set_limits("acme", [limit(window=window) for window in windows] + [limit(model="m")])
    await stores.count("acme", "m", Resource.REQUESTS, 3, NOON)
    await stores.count("acme", "n", Resource.REQUESTS, 4, NOON.replace(hour=13))
    await stores.count("acme", "n", Resource.REQUESTS, 5, NOON.replace(day=27))
    await stores.count("acme", "m", Resource.TOKENS, 100, NOON)
    await stores.count("rival", "m", Resource.REQUESTS, 100, NOON)
    assert await used(stores) == {
        ("", "REQUESTS", "HOUR"): 3,
        ("", "REQUESTS", "DAY"): 7,
        ("", "REQUESTS", "MONTH"): 12,
        ("m", "REQUESTS", "DAY"): 3,
    }
    march = await stores.quotas.calendar_use("acme", at=datetime(2026, 3, 1, tzinfo=UTC))
    assert {use.used for use in march} == {0}


async def test_windows_are_the_calendars_in_utc(stores: Stores) -> None:
    await tenant(stores)
    await stores.quotas.set_limits("acme", [limit(window=window) for window in (Window.HOUR, Window.DAY, Window.MONTH)])
    uses = await stores.quotas.calendar_use("acme", at=datetime.fromisoformat("2024-03-01T00:30:00+02:00"))
    assert {use.limit.limit.window: (use.window_start, use.window_end) for use in uses} == {
        Window.HOUR: (datetime(2024, 2, 29, 22, tzinfo=UTC), datetime(2024, 2, 29, 23, tzinfo=UTC)),
        Window.DAY: (datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)),
        Window.MONTH: (datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)),
    }


async def test_counter_goes_on_while_its_limit_is_away(stores: Stores) -> None:
    await tenant(stores)
    await stores.quotas.set_limits("acme", [limit()])
    await stores.count("acme", "m", Resource.REQUESTS, 1, NOON)
    await stores.quotas.set_limits("acme", [])
    await stores.count("acme", "m", Resource.REQUESTS, 2, NOON)
    await stores.quotas.set_limits("acme", [limit(amount=1)])
    assert await used(stores) == {("", "REQUESTS", "DAY"): 3}


async def test_concurrent_counts_of_one_window_add_up(stores: Stores) -> None:
    await tenant(stores)
    await stores.quotas.set_limits("acme", [limit(), limit(model="m")])
    await asyncio.gather(*(stores.count("acme", "m", Resource.REQUESTS, 5, NOON) for _ in range(20)))
    assert await used(stores) == {("", "REQUESTS", "DAY"): 100, ("m", "REQUESTS", "DAY"): 100}


async def test_nothing_and_less_count_nothing(stores: Stores) -> None:
    await tenant(stores)
    await stores.quotas.set_limits("acme", [limit()])
    for amount in (0, -1, -AMOUNT_MAX):
        await stores.count("acme", "m", Resource.REQUESTS, amount, NOON)
    assert await used(stores) == {("", "REQUESTS", "DAY"): 0}


async def test_reset_sets_the_chosen_counters_to_nothing(stores: Stores) -> None:
    await tenant(stores)
    await tenant(stores, "rival")
    hour = limit(window=Window.HOUR)
    tokens = limit(Resource.TOKENS)
    for tenant_id in ("acme", "rival"):
        await stores.quotas.set_limits(tenant_id, [limit(), hour, tokens, limit(model="m"), rate()])
        await stores.count(tenant_id, "m", Resource.REQUESTS, 3, NOON)
        await stores.count(tenant_id, "m", Resource.TOKENS, 4, NOON)

    async def reset(model: str = "", resource: Resource | None = None, window: Window | None = None) -> int:
        return await stores.quotas.reset_use("acme", model=model, resource=resource, window=window, at=NOON)

    assert await reset(window=Window.HOUR) == 1
    assert await reset(model="m") == 1
    assert await used(stores) == {
        ("", "REQUESTS", "HOUR"): 0,
        ("", "REQUESTS", "DAY"): 3,
        ("", "TOKENS", "DAY"): 4,
        ("m", "REQUESTS", "DAY"): 0,
    }
    assert await reset(resource=Resource.TOKENS) == 1
    assert await reset() == 4
    assert set((await used(stores)).values()) == {0}
    assert set((await used(stores, "rival")).values()) == {3, 4}
    await stores.count("acme", "m", Resource.REQUESTS, 1, NOON)
    assert (await used(stores))["", "REQUESTS", "DAY"] == 1


async def test_statistics_name_the_tenants_nearest_to_a_limit(stores: Stores) -> None:
    for tenant_id, amount in (("acme", 50), ("busy", 100), ("calm", 10), ("idle", 0)):
        await tenant(stores, tenant_id, "none")
        await stores.quotas.set_limits(tenant_id, [limit(), limit(window=Window.MONTH, amount=1000)])
        await stores.count(tenant_id, "m", Resource.REQUESTS, amount, NOON)
    await tenant(stores, "free", "none")
    await tenant(stores, "rated", "none")
    await stores.quotas.set_limits("rated", [rate()])
    statistics = await stores.quotas.statistics(tenants_max=2, at=NOON)
    assert (statistics.tenants_limited, statistics.tenants_exhausted) == (5, 1)
    assert [(near.tenant_id, near.use.used, near.use.limit.limit) for near in statistics.nearest] == [
        ("busy", 100, limit()),
        ("acme", 50, limit()),
    ]


async def test_statistics_of_nobody_are_empty(stores: Stores) -> None:
    statistics = await stores.quotas.statistics(tenants_max=5, at=NOON)
    assert (statistics.tenants_limited, statistics.tenants_exhausted, list(statistics.nearest)) == (0, 0, [])


async def test_counters_of_windows_that_ended_long_ago_are_forgotten(stores: Stores) -> None:
    await tenant(stores)
    await stores.quotas.set_limits("acme", [limit(), limit(window=Window.MONTH)])
    now = datetime.now(UTC)
    await stores.count("acme", "m", Resource.REQUESTS, 1, now)
    await stores.count("acme", "m", Resource.REQUESTS, 2, datetime(2020, 5, 5, tzinfo=UTC))
    assert await stores.quotas.forget_ended_windows() == 2
    assert set((await used(stores, at=now)).values()) == {1}
    assert await stores.quotas.forget_ended_windows() == 0
