"""Eight gateways on one tenant's rate: never more than it allows, nearly all of it used, whatever happens to Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common.clock import SystemClock
from headrace_gateway.quota.quota_leases import QuotaLeases
from support.eventually import eventually
from support.lease_callers import Admissions, call_until
from support.lease_mesh import running_leases
from support.quota import Keys, running_quota
from support.restartable_valkey import RestartableValkey, restartable_valkey
from support.soak import Measured

GATEWAYS = 8
CALLERS = 64
SECONDS = 30.0
RATE_PER_S = 400
BURST = 800
TENANT = "acme"
LIMITS = (pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_RATE, amount=RATE_PER_S, burst=BURST),)


class SkewedClock(SystemClock):
    """A gateway's clock, of which neither the date nor the origin of spans is anybody else's."""

    def __init__(self, skew_s: float) -> None:
        self._skew_s = skew_s

    def monotonic(self) -> float:
        return super().monotonic() + self._skew_s

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._skew_s)


@pytest.fixture
def valkey() -> Iterator[RestartableValkey]:
    """A server that the test stops."""
    with restartable_valkey() as server:
        server.start()
        yield server


@asynccontextmanager
async def fleet(
    database_url: str, valkey: RestartableValkey, folder: Path, *, skew_s: float = 0.0
) -> AsyncGenerator[list[QuotaLeases]]:
    """Eight gateways' leases against one quota service, all with their equal share."""
    keys = Keys.generate(folder)
    async with AsyncExitStack() as stack:
        quota = await stack.enter_async_context(running_quota(database_url, keys, redis_url=SecretStr(valkey.url)))
        await quota.client.create_tenant(TENANT)
        set_rate(database_url)
        gateways = [
            await stack.enter_async_context(
                running_leases(
                    quota.address, keys, f"gateway-{number}", LIMITS, clock=SkewedClock(skew_s * (-1) ** number)
                )
            )
            for number in range(GATEWAYS)
        ]
        await eventually(lambda: all(gateway.book.share.part > 0.9 / GATEWAYS for gateway in gateways), within_s=60)
        yield gateways


def set_rate(database_url: str) -> None:
    """Gives the tenant its limit."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO quota.tenant_quotas (tenant_id, resource, time_window, amount, period_ms, burst, algorithm) "
            "VALUES (%s, 'REQUESTS', 'RATE', %s, 1000, %s, 'GCRA')",
            (TENANT, RATE_PER_S, BURST),
        )


async def called(gateways: list[QuotaLeases], seconds: float = SECONDS) -> tuple[Admissions, float]:
    """What all callers were let in for, and the time they had."""
    began_s = time.monotonic()
    admissions = await call_until(began_s + seconds, gateways, tenant=TENANT, callers=CALLERS, seed=7)
    return admissions, time.monotonic() - began_s


def figures(admissions: Admissions, took_s: float, allowed: float) -> str:
    """What was measured, as the report has it."""
    count = len(admissions.times_s)
    refused = ", ".join(f"{calls:,} {reason}" for reason, calls in sorted(admissions.refused.items()))
    return (
        f"{count:,} let in of {allowed:,.0f} allowed in {took_s:.1f} s, {count / allowed:.1%}; least burst that "
        f"explains them {admissions.least_burst(RATE_PER_S):,.0f} of {BURST}; refused: {refused}"
    )


WHO = f"{GATEWAYS} gateways x {CALLERS} callers x {SECONDS:g} s on one limit of {RATE_PER_S}/s, burst {BURST}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("skew_s", [0.0, 2.0])
async def test_all_gateways_together_use_a_limit_up_and_never_pass_it(
    quota_database_url: str, valkey: RestartableValkey, tmp_path: Path, measured: Measured, skew_s: float
) -> None:
    async with fleet(quota_database_url, valkey, tmp_path, skew_s=skew_s) as gateways:
        admissions, took_s = await called(gateways)
    allowed = RATE_PER_S * took_s + BURST
    measured(
        WHO + (f", clocks {skew_s:g} s ahead and behind" if skew_s else ""),
        "calls let in ≤ rate × t + burst in every span of time, ≥ 95% of it used",
        figures(admissions, took_s, allowed),
    )
    assert admissions.least_burst(RATE_PER_S) <= BURST
    assert len(admissions.times_s) >= 0.95 * allowed


@pytest.mark.timeout(300)
async def test_valkey_killed_under_load_leaves_the_shares_and_no_more(
    quota_database_url: str, valkey: RestartableValkey, tmp_path: Path, measured: Measured
) -> None:
    async with fleet(quota_database_url, valkey, tmp_path) as gateways:
        calling = asyncio.create_task(called(gateways, SECONDS + 10))
        await asyncio.sleep(SECONDS / 3)
        killed_s = time.monotonic()
        await asyncio.to_thread(valkey.kill)
        await asyncio.sleep(SECONDS / 2)
        back_s = time.monotonic()
        await asyncio.to_thread(valkey.start)
        admissions, took_s = await calling
        ended_s = time.monotonic()
    allowed = RATE_PER_S * took_s + BURST
    away = admissions.within(killed_s + 2, back_s)
    away_allowed = RATE_PER_S * (back_s - killed_s - 2)
    after = admissions.within(back_s + 5, ended_s)
    after_allowed = RATE_PER_S * (ended_s - back_s - 5)
    measured(
        f"{WHO}, 10 s longer; Valkey killed after {SECONDS / 3:g} s, a new one {SECONDS / 2:g} s later",
        "calls let in ≤ rate × t + burst in every span; while it is away ≤ the shares; used again once it is back",
        f"{figures(admissions, took_s, allowed)}; while it was away {away:,} of {away_allowed:,.0f} "
        f"({away / away_allowed:.0%}), from 5 s after it was back {after:,} of {after_allowed:,.0f} "
        f"({after / after_allowed:.0%})",
    )
    assert admissions.least_burst(RATE_PER_S) <= BURST
    assert 0 < away <= away_allowed
    assert after >= 0.9 * after_allowed


@pytest.mark.timeout(300)
async def test_a_store_that_is_emptied_under_load_costs_no_more_than_a_burst(
    quota_database_url: str, valkey: RestartableValkey, tmp_path: Path, measured: Measured
) -> None:
    async with fleet(quota_database_url, valkey, tmp_path) as gateways:
        calling = asyncio.create_task(called(gateways))
        await asyncio.sleep(SECONDS / 2)
        await asyncio.to_thread(valkey.empty)
        admissions, took_s = await calling
    allowed = RATE_PER_S * took_s + BURST
    measured(
        f"{WHO}, FLUSHALL after {SECONDS / 2:g} s",
        "calls let in ≤ rate × t + burst in every span; costs at most a burst of what is allowed",
        figures(admissions, took_s, allowed),
    )
    assert admissions.least_burst(RATE_PER_S) <= BURST
    assert len(admissions.times_s) >= 0.95 * (allowed - BURST)
