"""PostgreSQL comes late, goes away, comes back."""

from __future__ import annotations

import asyncio
import time

import pytest
from grpc_health.v1 import health_pb2

from headrace.quota.v1 import tenants_pb2 as pb
from headrace_common.errors import HeadraceError
from support.quota import OPERATOR, Keys, QuotaClient, RunningQuota, listening_quota, running_quota
from support.restartable_postgres import RestartablePostgres

pytestmark = pytest.mark.fault


async def serving(quota: RunningQuota, service: str = "") -> bool:
    check = quota.client.channel.unary_unary(
        "/grpc.health.v1.Health/Check", response_deserializer=health_pb2.HealthCheckResponse.FromString
    )
    answer = await check(health_pb2.HealthCheckRequest(service=service).SerializeToString(), timeout=10)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


async def refused(client: QuotaClient) -> HeadraceError:
    with pytest.raises(HeadraceError) as error:
        await client.call(OPERATOR, pb.ListTenantsRequest(), timeout_s=20)
    return error.value


async def recovered(client: QuotaClient) -> float:
    started_s = time.monotonic()
    while True:
        try:
            await client.call(OPERATOR, pb.ListTenantsRequest())
        except HeadraceError as error:
            assert error.entry.grpc == "UNAVAILABLE"
            assert time.monotonic() - started_s < 30
            await asyncio.sleep(0.05)
        else:
            return time.monotonic() - started_s


async def test_service_waits_for_a_database_that_comes_late(postgres: RestartablePostgres, keys: Keys) -> None:
    async with listening_quota(postgres.url, keys) as quota:
        preparing = asyncio.ensure_future(quota.service.prepare())
        assert not await serving(quota)
        assert not await serving(quota, "headrace.quota.v1.TenantService")
        unavailable = await refused(quota.client)
        assert (unavailable.reason, unavailable.retryable) == ("DATABASE_UNAVAILABLE", True)
        assert not preparing.done()
        await asyncio.to_thread(postgres.start)
        await asyncio.wait_for(preparing, 20)
        assert await serving(quota)
        assert await serving(quota, "headrace.quota.internal.v1.PrincipalFeedService")
        assert (await quota.client.create_tenant("acme")).id == "acme"


async def test_service_lives_through_a_restart_of_its_database(postgres: RestartablePostgres, keys: Keys) -> None:
    await asyncio.to_thread(postgres.start)
    async with running_quota(postgres.url, keys) as quota:
        client = quota.client
        feed = client.watch()
        first = await asyncio.wait_for(anext(feed), 5)
        await client.create_tenant("acme")

        await asyncio.to_thread(postgres.stop)
        asked_s = time.monotonic()
        unavailable = await refused(client)
        assert (unavailable.reason, unavailable.entry.grpc) == ("DATABASE_UNAVAILABLE", "UNAVAILABLE")
        assert "127.0.0.1" not in unavailable.message
        assert time.monotonic() - asked_s < 8

        await asyncio.to_thread(postgres.start)
        await recovered(client)
        await client.create_tenant("rival")
        revisions: list[int] = []
        names: list[str] = []
        while "rival" not in names:
            message = await asyncio.wait_for(anext(feed), 15)
            if message.tenants:
                revisions.append(message.revision)
                names += [tenant.tenant_id for tenant in message.tenants]
        assert revisions == [first.revision + 1, first.revision + 2]
        assert names == ["acme", "rival"]


async def test_feed_gives_no_sign_of_life_while_it_cannot_know(postgres: RestartablePostgres, keys: Keys) -> None:
    await asyncio.to_thread(postgres.start)
    async with running_quota(postgres.url, keys, feed_poll_s=0.1, feed_heartbeat_s=0.1) as quota:
        feed = quota.client.watch()
        await asyncio.wait_for(anext(feed), 5)
        await asyncio.wait_for(anext(feed), 5)
        following = asyncio.ensure_future(anext(feed))
        await asyncio.to_thread(postgres.stop)
        # Signs that were on their way, or that the last look still covers, may come; then silence.
        silent = False
        for _ in range(20):
            done, _ = await asyncio.wait({following}, timeout=1.0)
            if not done:
                silent = True
                break
            following = asyncio.ensure_future(anext(feed))
        assert silent
        await asyncio.to_thread(postgres.start)
        assert not (await asyncio.wait_for(following, 30)).snapshot


async def test_watcher_that_comes_during_the_outage_is_told_to_retry(postgres: RestartablePostgres, keys: Keys) -> None:
    await asyncio.to_thread(postgres.start)
    async with running_quota(postgres.url, keys) as quota:
        await asyncio.to_thread(postgres.stop)
        with pytest.raises(HeadraceError) as error:
            await asyncio.wait_for(anext(quota.client.watch()), 20)
        assert error.value.retryable


async def test_who_was_locked_out_is_told_of_although_the_database_goes_at_once(
    postgres: RestartablePostgres, keys: Keys
) -> None:
    await asyncio.to_thread(postgres.start)
    async with running_quota(postgres.url, keys) as quota:
        client = quota.client
        await client.create_tenant("acme")
        made = await client.create_key("acme")
        feed = client.watch()
        assert (await asyncio.wait_for(anext(feed), 20)).snapshot_complete
        await client.call(OPERATOR, pb.RevokeApiKeyRequest(id=made.api_key.id))
        await client.call(OPERATOR, pb.SuspendTenantRequest(id="acme"))
        # Not a turn of the event loop lies between: nobody else can have read what was committed.
        postgres.stop()
        revoked = suspended = False
        async with asyncio.timeout(20):
            while not (revoked and suspended):
                message = await anext(feed)
                revoked |= any(key.revoked for key in message.keys)
                suspended |= any(tenant.status == pb.TENANT_STATUS_SUSPENDED for tenant in message.tenants)
