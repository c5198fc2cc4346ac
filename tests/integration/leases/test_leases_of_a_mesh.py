"""Leases end to end: gateways' clients, the quota service, PostgreSQL and Valkey, all real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from pydantic import SecretStr

from headrace.quota.internal.v1 import leases_pb2
from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common.errors import AuthError, HeadraceError, QuotaExceeded, QuotaUnavailable, ValidationError
from headrace_common.principal import PRINCIPAL_KEY
from headrace_common.rpc_status import from_rpc_error
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.quota_leases import QuotaLeases
from headrace_gateway.quota.reservation import Reservation
from headrace_quota.app import AUDIENCE
from support.eventually import eventually
from support.lease_mesh import running_leases
from support.quota import Keys, RunningQuota, admin_of, running_quota
from support.restartable_postgres import RestartablePostgres, restartable_postgres
from support.restartable_valkey import RestartableValkey, restartable_valkey

ONE = Amounts()
TENANT = "acme"
_WAIT_S = 20.0
AT_ONCE = pb.Limit(resource=pb.RESOURCE_CONCURRENCY, window=pb.WINDOW_MOMENT, amount=4)
HOURLY = pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_HOUR, amount=1_000)
CALLS = pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_RATE, amount=1_000)
LEASE = "/headrace.quota.internal.v1.LeaseService/Lease"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Fresh signing keys."""
    return Keys.generate(tmp_path)


@pytest.fixture
def valkey() -> Iterator[RestartableValkey]:
    """A server of the test's own, which it may kill."""
    with restartable_valkey() as server:
        server.start()
        yield server


@pytest.fixture
def postgres() -> Iterator[RestartablePostgres]:
    """A server that a test stops."""
    with restartable_postgres() as server:
        yield server


class Mesh:
    """A quota service whose tenants have no limits yet, and gateways that join and leave."""

    def __init__(self, quota: RunningQuota, keys: Keys, database_url: str, stack: AsyncExitStack) -> None:
        self.quota = quota
        self.keys = keys
        self._database_url = database_url
        self._stack = stack
        self.limits: Sequence[pb.Limit] = ()

    async def limit(self, *limits: pb.Limit) -> None:
        """Gives the tenant limits that quota knows of by then."""
        self.limits = limits
        with psycopg.connect(self._database_url, autocommit=True) as connection:
            for limit in limits:
                rate = limit.window == pb.WINDOW_RATE
                values = {
                    "resource": pb.Resource.Name(limit.resource).removeprefix("RESOURCE_"),
                    "window": pb.Window.Name(limit.window).removeprefix("WINDOW_"),
                    "amount": limit.amount,
                    "period_ms": 1_000 if rate else None,
                    "burst": limit.amount if rate else None,
                    "algorithm": "GCRA" if rate else None,
                }
                connection.execute(
                    "INSERT INTO quota.tenant_quotas "
                    "(tenant_id, resource, time_window, amount, period_ms, burst, algorithm) VALUES "
                    "('acme', %(resource)s, %(window)s, %(amount)s, %(period_ms)s, %(burst)s, %(algorithm)s)",
                    values,
                )

    async def gateway(self, name: str) -> QuotaLeases:
        """A gateway that joins and lives until the test ends."""
        return await self._stack.enter_async_context(running_leases(self.quota.address, self.keys, name, self.limits))

    def rows(self, query: str) -> list[Any]:
        """What the database holds."""
        with psycopg.connect(self._database_url, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture
async def mesh(quota_database_url: str, keys: Keys, valkey: RestartableValkey) -> AsyncIterator[Mesh]:
    """A quota service with a tenant; a gateway that reports no more is given up after 2 to 3 s."""
    async with AsyncExitStack() as stack:
        quota = await stack.enter_async_context(
            running_quota(quota_database_url, keys, redis_url=SecretStr(valkey.url), lease_expire_s=2.0)
        )
        await quota.client.create_tenant(TENANT)
        yield Mesh(quota, keys, quota_database_url, stack)


async def reserved(leases: QuotaLeases, estimate: Amounts = ONE) -> Reservation:
    """One call gets in; while the limits are on their way, or others give back, it comes again."""
    async with asyncio.timeout(_WAIT_S):
        while True:
            try:
                reservation = leases.book.reserve(TENANT, "m", estimate)
                return reservation or await leases.book.granted(TENANT, "m", estimate, _WAIT_S)
            except (QuotaExceeded, QuotaUnavailable) as error:
                await asyncio.sleep(min(error.retry_after_s or 0.1, 0.3))


async def refusal(leases: QuotaLeases) -> HeadraceError:
    """The failure of a call that must not get in."""
    with pytest.raises(HeadraceError) as refused:
        if leases.book.reserve(TENANT, "m", ONE) is None:
            await leases.book.granted(TENANT, "m", ONE, _WAIT_S)
    return refused.value


async def test_places_are_shared_by_gateways_and_come_back_when_calls_end(mesh: Mesh) -> None:
    await mesh.limit(AT_ONCE)
    first, second = await mesh.gateway("g1"), await mesh.gateway("g2")
    calls = [await reserved(first) for _ in range(3)] + [await reserved(second)]
    full = await refusal(second)
    assert isinstance(full, QuotaExceeded)
    assert full.reason == "CONCURRENCY_LIMIT_EXCEEDED"
    assert full.context["limit"] == 4
    assert full.context["currentUsage"] == 4
    calls.pop(0).settle(ONE)
    calls.append(await reserved(second))
    for call in calls:
        call.settle(ONE)


@pytest.mark.fault
async def test_what_a_killed_gateway_held_comes_back_after_its_time(mesh: Mesh) -> None:
    await mesh.limit(AT_ONCE, HOURLY)
    async with running_leases(mesh.quota.address, mesh.keys, "killed", mesh.limits) as killed:
        for _ in range(4):
            await reserved(killed)
    survivor = await mesh.gateway("survivor")
    assert (await refusal(survivor)).reason == "CONCURRENCY_LIMIT_EXCEEDED"
    await reserved(survivor)
    await eventually(
        lambda: not mesh.rows("SELECT 1 FROM quota.calendar_leases WHERE gateway_id = 'killed'"), within_s=_WAIT_S
    )


async def test_a_successor_frees_what_its_predecessor_held_at_once(
    quota_database_url: str, keys: Keys, valkey: RestartableValkey
) -> None:
    async with AsyncExitStack() as stack:
        quota = await stack.enter_async_context(
            running_quota(quota_database_url, keys, redis_url=SecretStr(valkey.url), lease_expire_s=3_600.0)
        )
        await quota.client.create_tenant(TENANT)
        mesh = Mesh(quota, keys, quota_database_url, stack)
        await mesh.limit(AT_ONCE)
        async with running_leases(quota.address, keys, "killed", mesh.limits) as killed:
            for _ in range(4):
                await reserved(killed)
            await eventually(lambda: killed.book.share.part > 0.9)
        heir = await mesh.gateway("heir")
        assert (await refusal(heir)).reason == "CONCURRENCY_LIMIT_EXCEEDED"
        heir.replace("killed")
        await reserved(heir)
        await eventually(lambda: heir.book.share.part > 0.9)


async def test_a_gateway_that_leaves_gives_everything_back(mesh: Mesh) -> None:
    await mesh.limit(AT_ONCE, HOURLY, CALLS)
    leaving = await mesh.gateway("leaving")
    (await reserved(leaving)).settle(ONE)
    await leaving.close()
    held = mesh.rows("SELECT held FROM quota.calendar_leases WHERE gateway_id = 'leaving'")
    assert held == [(1,)], "what it used is held until the ledger has it"
    assert not mesh.rows("SELECT 1 FROM quota.lease_gateways WHERE gateway_id = 'leaving'")


async def test_a_calendar_quota_is_never_held_and_used_beyond_its_amount(mesh: Mesh) -> None:
    await mesh.limit(pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_HOUR, amount=10))
    gateways = [await mesh.gateway(f"g{number}") for number in range(3)]
    for number in range(10):
        (await reserved(gateways[number % 3])).settle(ONE)
    refused = [await refusal(gateway) for gateway in gateways]
    assert {error.reason for error in refused} == {"QUOTA_EXCEEDED"}
    assert refused[0].context["limit"] == 10
    assert refused[0].context["currentUsage"] == 10
    mesh.rows(
        "SELECT quota.increment_quota_usage('acme', 'm', 'REQUESTS', held, now()), "
        "quota.charge_lease(gateway_id, 'acme', 'm', 'REQUESTS', held, now()) FROM quota.calendar_leases"
    )
    assert mesh.rows("SELECT sum(held)::int FROM quota.calendar_leases") == [(0,)]
    assert (await refusal(gateways[1])).reason == "QUOTA_EXCEEDED"


async def test_a_new_quota_process_finds_everybody_as_they_were(
    quota_database_url: str, keys: Keys, valkey: RestartableValkey
) -> None:
    limits = (AT_ONCE, HOURLY)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        quota = await first.enter_async_context(
            running_quota(quota_database_url, keys, redis_url=SecretStr(valkey.url))
        )
        await quota.client.create_tenant(TENANT)
        mesh = Mesh(quota, keys, quota_database_url, stack)
        await mesh.limit(*limits)
        one, two = await mesh.gateway("g1"), await mesh.gateway("g2")
        calls = [await reserved(one) for _ in range(4)]
        host, _, port = quota.address.rpartition(":")
        await first.aclose()
        again = await stack.enter_async_context(
            running_quota(quota_database_url, keys, redis_url=SecretStr(valkey.url), grpc_address=f"{host}:{port}")
        )
        assert again.address == quota.address
        async with asyncio.timeout(_WAIT_S):
            while (await refusal(two)).reason != "CONCURRENCY_LIMIT_EXCEEDED":
                await asyncio.sleep(0.1)
        calls.pop().settle(ONE)
        await reserved(two)


@pytest.mark.parametrize("how", ["emptied", pytest.param("killed", marks=pytest.mark.fault)])
async def test_a_store_that_forgets_hands_no_place_out_twice(mesh: Mesh, valkey: RestartableValkey, how: str) -> None:
    await mesh.limit(AT_ONCE)
    one, two = await mesh.gateway("g1"), await mesh.gateway("g2")
    calls = [await reserved(one) for _ in range(4)]
    await refusal(two)
    if how == "killed":
        await asyncio.to_thread(valkey.kill)
        await asyncio.to_thread(valkey.start)
    else:
        await asyncio.to_thread(valkey.empty)
    for _ in range(20):
        assert isinstance(await refusal(two), QuotaExceeded | QuotaUnavailable)
        await asyncio.sleep(0.1)
    calls.pop().settle(ONE)
    await reserved(two)


async def test_a_mesh_without_valkey_keeps_granting_calendar_quotas(quota_database_url: str, keys: Keys) -> None:
    async with AsyncExitStack() as stack:
        quota = await stack.enter_async_context(running_quota(quota_database_url, keys))
        await quota.client.create_tenant(TENANT)
        mesh = Mesh(quota, keys, quota_database_url, stack)
        await mesh.limit(HOURLY)
        gateway = await mesh.gateway("g1")
        (await reserved(gateway)).settle(ONE)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"gateway_id": ""}, "gateway_id"),
        ({"gateway_id": "g" * 201}, "gateway_id"),
        ({"replaces": [""]}, "gateway_id"),
        ({"sequence": 0}, "sequence"),
        ({"sequence": 1, "answered": 1}, "sequence"),
        ({"share": 1.1}, "share"),
        ({"share": float("nan")}, "share"),
        ({"share": -0.1}, "share"),
        ({"limits": [leases_pb2.LimitReport(wanted=-1)]}, "limits[0]"),
        ({"limits": [leases_pb2.LimitReport(held=-1)]}, "limits[0]"),
        ({"limits": [leases_pb2.LimitReport()] * 2_001}, "limits"),
    ],
)
async def test_reports_that_make_no_sense_are_refused(mesh: Mesh, fields: dict[str, Any], field: str) -> None:
    request = leases_pb2.LeaseRequest(**({"gateway_id": "g", "sequence": 1} | fields))
    error = await _answer(mesh, request, service=True)
    assert isinstance(error, ValidationError)
    assert error.field == field


async def test_a_report_that_is_older_than_another_one_is_refused(mesh: Mesh) -> None:
    newer = leases_pb2.LeaseRequest(gateway_id="g-old", sequence=5)
    assert await _answer(mesh, newer, service=True) is None
    error = await _answer(mesh, leases_pb2.LeaseRequest(gateway_id="g-old", sequence=4), service=True)
    assert isinstance(error, ValidationError)
    assert error.field == "sequence"


async def test_tenants_get_no_leases(mesh: Mesh) -> None:
    error = await _answer(mesh, leases_pb2.LeaseRequest(gateway_id="g", sequence=1), service=False)
    assert isinstance(error, AuthError)


async def test_unknown_limits_are_called_unknown(mesh: Mesh) -> None:
    await mesh.limit()
    mesh.limits = (CALLS, HOURLY)
    gateway = await mesh.gateway("g")
    error = await refusal(gateway)
    assert isinstance(error, QuotaUnavailable)


async def _answer(mesh: Mesh, request: leases_pb2.LeaseRequest, *, service: bool) -> HeadraceError | None:
    """What a report of a stream of its own is refused with."""
    client = mesh.quota.client
    token = client.signer.sign_service(audience=AUDIENCE) if service else client.token(admin_of(TENANT))[0][1]
    method: Any = client.channel.stream_stream(LEASE)  # pyright: ignore[reportUnknownVariableType]
    call = method(metadata=((PRINCIPAL_KEY, token),), timeout=20.0)
    try:
        await call.write(request.SerializeToString())
        await call.read()
    except grpc.RpcError as error:
        return from_rpc_error(error)
    finally:
        call.cancel()
    return None


async def test_rates_are_granted_while_the_database_is_away_and_slices_go_on(
    postgres: RestartablePostgres, keys: Keys, valkey: RestartableValkey
) -> None:
    postgres.start()
    hourly = pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_HOUR, amount=1_000_000)
    async with AsyncExitStack() as stack:
        quota = await stack.enter_async_context(running_quota(postgres.url, keys, redis_url=SecretStr(valkey.url)))
        await quota.client.create_tenant(TENANT)
        mesh = Mesh(quota, keys, postgres.url, stack)
        await mesh.limit(CALLS, hourly)
        gateway = await mesh.gateway("g1")
        (await reserved(gateway)).settle(ONE)
        await eventually(lambda: gateway.book.share.part > 0.9)
        await asyncio.to_thread(postgres.stop)
        for _ in range(60):
            (await reserved(gateway)).settle(ONE)
            await asyncio.sleep(0.05)
        await asyncio.to_thread(postgres.start)
        (await reserved(gateway)).settle(ONE)
