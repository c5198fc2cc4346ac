"""The ledger: each record of a spool is there once, counted once, and only its own tenant reads it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import grpc.aio
import psycopg
import pytest
from psycopg import errors

from headrace.quota.internal.v1.usage_ingest_pb2 import KeyUse, SpoolRecord
from headrace.quota.v1 import audit_pb2, quotas_pb2, usage_pb2
from headrace.quota.v1.tenants_pb2 import ListApiKeysRequest
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.postgres import Database, service_conninfo
from headrace_quota.ledger.rows import row_id
from headrace_quota.ledger.upkeep import LedgerUpkeep
from headrace_quota.messages import timestamp
from support.quota import OPERATOR, QuotaClient, admin_of
from support.spooled import NOW, Summed, request_record, spool_writer

ACME = admin_of("acme")
RIVAL = admin_of("rival")


@pytest.fixture(autouse=True)
async def two_tenants(client: QuotaClient) -> None:
    for tenant_id in ("acme", "rival"):
        await client.create_tenant(tenant_id)


async def listed(client: QuotaClient, tenant_id: str = "acme", **fields: Any) -> list[usage_pb2.RequestRecord]:
    request = usage_pb2.ListRequestsRequest(
        start_time=timestamp(NOW - timedelta(days=2)), end_time=timestamp(NOW + timedelta(days=1)), **fields
    )
    return list((await client.call(admin_of(tenant_id), request)).requests)


async def summed(client: QuotaClient) -> list[usage_pb2.UsageSum]:
    request = usage_pb2.SummarizeUsageRequest(
        start_time=timestamp(NOW - timedelta(days=2)), end_time=timestamp(NOW + timedelta(days=1))
    )
    return list((await client.call(ACME, request)).sums)


async def test_a_record_is_shown_as_it_was_sent(client: QuotaClient) -> None:
    sent = request_record("acme", prompt_tokens=3, completion_tokens=4, error_reason="", kind="generate")
    sent.queue_latency.FromMicroseconds(7)
    sent.execution_latency.FromMicroseconds(1_500)
    async with spool_writer(client) as spool:
        assert await spool.send(sent) == 1
    assert await listed(client) == [sent]


async def test_gateways_of_before_are_understood(client: QuotaClient) -> None:
    former = request_record("acme", calls=3, attempts=4, device_ms=1.5, error_reason="CALL_ABANDONED")
    former.queue_latency.FromMicroseconds(7)
    former.execution_latency.FromMicroseconds(5)
    async with spool_writer(client) as spool:
        former.id = row_id(uuid.UUID(spool.spool_id), 1)
        assert await spool.send(SpoolRecord(request=former), request_record("acme", model="other")) == 2
    assert await listed(client, model="magika") == [former]


async def test_what_is_sent_again_counts_once(client: QuotaClient) -> None:
    records = [request_record("acme", request_id=f"r{number}") for number in range(5)]
    async with spool_writer(client) as spool:
        assert await spool.send(*records[:3]) == 3
        assert await spool.send(*records[1:4], again_from=1) == 4, "two of them are new to nobody"
        assert await spool.send(again_from=0) == 4, "an empty batch asks how far the spool is"
    async with spool_writer(client, spool_id=spool.spool_id) as again:
        assert await again.send(*records, again_from=0) == 5
    rows = await listed(client)
    assert sorted(row.request_id for row in rows) == ["r0", "r1", "r2", "r3", "r4"]
    (total,) = await summed(client)
    assert (total.calls, total.input_bytes, total.device_ms) == (5, 500, 12.5)


async def test_sums_tell_models_and_failures_apart(client: QuotaClient) -> None:
    failed = usage_pb2.REQUEST_STATUS_FAILED
    abandoned = usage_pb2.REQUEST_STATUS_ABANDONED
    async with spool_writer(client) as spool:
        await spool.send(
            request_record("acme"),
            request_record("acme", status=failed, error_reason="MODEL_FAILED"),
            *[Summed(request_record("acme", status=abandoned, model="silero")) for _ in range(3)],
            request_record("rival"),
        )
    assert [(row.model, row.calls, row.failed_calls) for row in await summed(client)] == [
        ("magika", 2, 1),
        ("silero", 3, 3),
    ]
    assert [row.error_reason for row in await listed(client, status=failed)] == ["MODEL_FAILED"]
    assert [row.calls for row in await listed(client, model="silero")] == [3]


async def test_settled_usage_counts_against_calendar_quotas(client: QuotaClient) -> None:
    limits = [
        quotas_pb2.Limit(resource=resource, window=quotas_pb2.WINDOW_MONTH, amount=1_000)
        for resource in (quotas_pb2.RESOURCE_REQUESTS, quotas_pb2.RESOURCE_TOKENS, quotas_pb2.RESOURCE_INPUT_BYTES)
    ]
    async with spool_writer(client) as spool:
        await spool.send(request_record("acme", prompt_tokens=2))
        # A limit that is set in the middle of a window begins with what the ledger says.
        await client.call(OPERATOR, quotas_pb2.SetLimitsRequest(tenant_id="acme", limits=limits))
        await spool.send(
            request_record("acme", prompt_tokens=3),
            Summed(request_record("acme", model="silero")),
            Summed(request_record("acme", model="silero", input_bytes=0)),
        )
    usages = (await client.call(ACME, quotas_pb2.GetQuotaUsageRequest())).usages
    assert {usage.limit.resource: usage.used for usage in usages} == {
        quotas_pb2.RESOURCE_REQUESTS: 4,
        quotas_pb2.RESOURCE_TOKENS: 5,
        quotas_pb2.RESOURCE_INPUT_BYTES: 300,
    }


async def test_a_batch_that_makes_no_sense_is_refused_and_leaves_nothing(client: QuotaClient) -> None:
    async with spool_writer(client) as spool:
        with pytest.raises(grpc.aio.AioRpcError, match="must rise"):
            await spool.send(request_record("acme"), request_record("acme"), again_from=-1)
    assert await listed(client) == []


async def test_a_record_with_odd_values_is_corrected_and_holds_nobody_up(client: QuotaClient) -> None:
    odd = request_record(
        "acme", request_id="a\0b" + "c" * 900, input_bytes=2**63 - 1, device_ms=float("nan"), attempts=2**31 - 1
    )
    async with spool_writer(client) as spool:
        assert await spool.send(odd, request_record("acme", request_id="after")) == 2
    row, _after = sorted(await listed(client), key=lambda row: row.request_id)
    assert row.request_id == "ab" + "c" * 510
    assert (row.input_bytes, row.device_ms, row.calls, row.attempts) == (2**53, 0, 1, 1_000_000)


async def test_pages_follow_each_other_newest_first(client: QuotaClient) -> None:
    records = [request_record("acme", admitted_at=NOW - timedelta(seconds=number // 2)) for number in range(7)]
    async with spool_writer(client) as spool:
        await spool.send(*records)
    seen: list[str] = []
    token = ""
    while True:
        request = usage_pb2.ListRequestsRequest(page_size=2, page_token=token)
        request.end_time.CopyFrom(timestamp(NOW + timedelta(days=1)))
        page = await client.call(ACME, request)
        seen += [row.id for row in page.requests]
        token = page.next_page_token
        if not token:
            break
    assert seen == [row.id for row in sorted(records, key=lambda row: (row.admit_time.seconds, row.id), reverse=True)]
    with pytest.raises(HeadraceError) as caught:
        await client.call(RIVAL, usage_pb2.ListRequestsRequest(page_token=request.page_token))
    assert caught.value.entry is catalogue.PAGE_TOKEN_INVALID


@pytest.mark.parametrize(
    "ask",
    [
        lambda: usage_pb2.ListRequestsRequest(tenant_id="acme"),
        lambda: usage_pb2.SummarizeUsageRequest(tenant_id="acme"),
        lambda: audit_pb2.ListAuditEntriesRequest(tenant_id="acme"),
    ],
)
async def test_another_tenants_usage_is_absent(client: QuotaClient, ask: Callable[[], Any]) -> None:
    with pytest.raises(HeadraceError) as foreign:
        await client.call(RIVAL, ask())
    absent = ask()
    absent.tenant_id = "nobody"
    with pytest.raises(HeadraceError) as missing:
        await client.call(RIVAL, absent)
    with pytest.raises(HeadraceError) as unknown:
        await client.call(OPERATOR, absent)
    assert {error.value.entry for error in (foreign, missing, unknown)} == {catalogue.TENANT_NOT_FOUND}
    assert foreign.value.message.replace("acme", "nobody") == missing.value.message
    await client.call(OPERATOR, ask())


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (usage_pb2.ListRequestsRequest(page_size=1_001), "page_size"),
        (usage_pb2.ListRequestsRequest(page_size=-1), "page_size"),
        (usage_pb2.ListRequestsRequest(model="\0"), "model"),
        (usage_pb2.ListRequestsRequest(request_id="x" * 257), "request_id"),
        (usage_pb2.ListRequestsRequest(status=cast("Any", 99)), "status"),
        (usage_pb2.SummarizeUsageRequest(granularity=cast("Any", 99)), "granularity"),
        (usage_pb2.SummarizeUsageRequest(start_time=timestamp(NOW + timedelta(days=1))), "end_time"),
        (usage_pb2.SummarizeUsageRequest(start_time=timestamp(NOW - timedelta(days=400))), "end_time"),
        (audit_pb2.ListAuditEntriesRequest(after_sequence=-1), "after_sequence"),
        (audit_pb2.ListAuditEntriesRequest(before_sequence=1), "before_sequence"),
        (audit_pb2.ListAuditEntriesRequest(after_sequence=1, newest_first=True), "after_sequence"),
        (audit_pb2.ListAuditEntriesRequest(actor="x" * 300), "actor"),
    ],
)
async def test_questions_that_make_no_sense_name_the_field(
    client: QuotaClient, request_message: Any, field: str
) -> None:
    with pytest.raises(HeadraceError) as caught:
        await client.call(ACME, request_message)
    assert caught.value.entry is catalogue.FIELD_INVALID
    assert field in caught.value.message


async def test_runner_events_are_for_operators(client: QuotaClient) -> None:
    events = [
        usage_pb2.RunnerEvent(runner_id=f"runner-{number % 2}", event="connected", event_time=timestamp(NOW))
        for number in range(3)
    ]
    async with spool_writer(client, gateway_id="gateway-7") as spool:
        assert await spool.send(*events) == 3
    page = await client.call(OPERATOR, usage_pb2.ListRunnerEventsRequest(page_size=2))
    rest = await client.call(OPERATOR, usage_pb2.ListRunnerEventsRequest(page_token=page.next_page_token))
    found = [*page.events, *rest.events]
    assert [event.runner_id for event in found] == ["runner-0", "runner-1", "runner-0"]
    assert {event.gateway_id for event in found} == {"gateway-7"}
    of_one = await client.call(OPERATOR, usage_pb2.ListRunnerEventsRequest(runner_id="runner-1"))
    assert [event.runner_id for event in of_one.events] == ["runner-1"]
    unknown = await client.call(OPERATOR, usage_pb2.ListRunnerEventsRequest(runner_id="runner"))
    assert not unknown.events
    with pytest.raises(HeadraceError) as caught:
        await client.call(ACME, usage_pb2.ListRunnerEventsRequest())
    assert caught.value.entry is catalogue.ROLE_FORBIDDEN


async def test_a_runners_name_stands_for_all_processes_that_had_it(client: QuotaClient) -> None:
    first, second = f"rack.gpu-1.{uuid.UUID(int=1)}", f"rack.gpu-1.{uuid.UUID(int=2)}"
    others = (f"rack.gpu-10.{uuid.UUID(int=3)}", f"rack.gpu-1.b.{uuid.UUID(int=4)}", f"rack.{uuid.UUID(int=5)}")
    events = [
        usage_pb2.RunnerEvent(runner_id=runner_id, event="connected", event_time=timestamp(NOW))
        for runner_id in (first, *others, second)
    ]
    async with spool_writer(client) as spool:
        await spool.send(*events)

    async def told(runner: str) -> list[str]:
        page = await client.call(OPERATOR, usage_pb2.ListRunnerEventsRequest(runner_id=runner, page_size=1))
        rest = usage_pb2.ListRunnerEventsRequest(runner_id=runner, page_token=page.next_page_token)
        more = (await client.call(OPERATOR, rest)).events if page.next_page_token else []
        return [event.runner_id for event in (*page.events, *more)]

    assert await told("rack.gpu-1") == [second, first]
    assert await told(first) == [first]
    assert await told("rack.gpu") == await told("rack.gpu-1.") == await told("%") == []


async def test_the_use_of_a_key_is_remembered(client: QuotaClient) -> None:

    made = await client.create_key("acme")
    async with spool_writer(client) as spool:
        use = KeyUse(key_id=made.api_key.id, tenant_id="acme", use_time=timestamp(NOW))
        community = KeyUse(key_id="community", tenant_id="acme", use_time=timestamp(NOW))
        assert await spool.send(use, community) == 2
    (key,) = (await client.call(ACME, ListApiKeysRequest())).api_keys
    assert key.last_use_time.seconds == NOW.replace(second=0).timestamp()


def entry(tenant_id: str, number: int) -> audit_pb2.AuditEntry:
    return audit_pb2.AuditEntry(
        tenant_id=tenant_id,
        event_time=timestamp(NOW + timedelta(microseconds=number)),
        actor="key:k1",
        method="/headrace.registry.v1.ModelService/CreateModel",
        resource=f"model-{number}",
        request_json='{"name":"ä"}',
        outcome="OK",
        request_id=f"r{number}",
        gateway_id="gateway-7",
    )


def digest_of(row: audit_pb2.AuditEntry) -> bytes:
    """The hash as docs/audit.md says it, written a second time."""
    event_time = row.event_time.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    texts = (row.tenant_id, str(row.sequence), event_time, row.actor, row.method, row.resource, row.request_json)
    fields = [text.encode() for text in (*texts, row.outcome, row.request_id, row.gateway_id)]
    hashed = hashlib.sha256()
    for field in (*fields, row.previous_sha256):
        hashed.update(len(field).to_bytes(8, "big") + field)
    return hashed.digest()


async def test_each_tenant_has_a_chain_of_its_own_that_can_be_verified(client: QuotaClient) -> None:
    async with spool_writer(client) as one, spool_writer(client, gateway_id="gateway-8") as other:
        await one.send(entry("acme", 1), entry("rival", 2), entry("acme", 3))
        await other.send(entry("acme", 4))
        await one.send(entry("acme", 3), again_from=2)
    answer = await client.call(ACME, audit_pb2.ListAuditEntriesRequest())
    assert [(row.sequence, row.resource) for row in answer.entries] == [(1, "model-1"), (2, "model-3"), (3, "model-4")]
    previous = bytes(32)
    for row in answer.entries:
        assert row.previous_sha256 == previous
        assert row.sha256 == digest_of(row)
        previous = row.sha256
    newest = await client.call(ACME, audit_pb2.ListAuditEntriesRequest(newest_first=True, page_size=2))
    assert [row.sequence for row in newest.entries] == [3, 2]
    assert newest.more
    rest = await client.call(ACME, audit_pb2.ListAuditEntriesRequest(newest_first=True, before_sequence=2))
    assert ([row.sequence for row in rest.entries], rest.more) == ([1], False)
    assert [row.resource for row in (await client.call(RIVAL, audit_pb2.ListAuditEntriesRequest())).entries] == [
        "model-2"
    ]
    with pytest.raises(HeadraceError) as caught:
        await client.call(admin_of("acme", "model_admin"), audit_pb2.ListAuditEntriesRequest())
    assert caught.value.entry is catalogue.ROLE_FORBIDDEN


async def test_the_database_itself_keeps_ledger_and_audit_log(client: QuotaClient, database_url: str) -> None:
    async with spool_writer(client) as spool:
        await spool.send(request_record("acme"), entry("acme", 1))
    conninfo = service_conninfo(database_url, service="quota", statement_timeout_s=10, lock_timeout_s=5)
    for statement in (
        "UPDATE quota.audit_log SET actor = 'x'",
        "DELETE FROM quota.audit_log",
        "DELETE FROM quota.inference_requests",
        "SELECT * FROM quota.inference_requests_other",
        f"SELECT * FROM quota.inference_requests_{NOW:%Y%m%d}",  # noqa: S608
    ):
        with psycopg.connect(conninfo) as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute("SELECT set_config('headrace.tenant_id', '*', true)")
            connection.execute(cast("Any", statement))
    with psycopg.connect(conninfo) as connection:
        connection.execute("SELECT set_config('headrace.tenant_id', 'rival', true)")
        for table in ("inference_requests", "model_metrics_hourly", "audit_log", "runner_health", "usage_spools"):
            rows = connection.execute(cast("Any", f"SELECT * FROM quota.{table}"))  # noqa: S608
            assert rows.fetchall() == []
    with psycopg.connect(database_url) as owner, pytest.raises(errors.RestrictViolation):
        owner.execute("DELETE FROM quota.audit_log")


async def test_old_days_are_dropped_and_their_sums_stay(client: QuotaClient, database_url: str) -> None:
    old = NOW - timedelta(days=40)
    async with spool_writer(client) as spool:
        await spool.send(request_record("acme"), request_record("acme", admitted_at=old))
    with psycopg.connect(database_url) as owner:
        owner.execute(
            "CREATE TABLE quota.inference_requests_20200101 PARTITION OF quota.inference_requests "
            "FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-01-02 00:00:00+00')"
        )
    async with Database(url=database_url, service="quota") as database:
        await LedgerUpkeep(database=database, retention_days=30).once()
    request = usage_pb2.ListRequestsRequest(start_time=timestamp(old - timedelta(days=1)))
    request.end_time.CopyFrom(timestamp(NOW + timedelta(days=1)))
    assert [row.admit_time.seconds for row in (await client.call(ACME, request)).requests] == [int(NOW.timestamp())]
    sums = usage_pb2.SummarizeUsageRequest(start_time=timestamp(old - timedelta(days=1)))
    sums.end_time.CopyFrom(timestamp(NOW + timedelta(days=1)))
    assert sum(row.calls for row in (await client.call(ACME, sums)).sums) == 2
    with psycopg.connect(database_url) as owner:
        (gone,) = owner.execute("SELECT to_regclass('quota.inference_requests_20200101')").fetchone() or ("",)
        assert gone is None


async def test_closing_a_spool_gives_back_what_its_gateway_held(client: QuotaClient, database_url: str) -> None:
    with psycopg.connect(database_url) as owner:
        owner.execute(
            "INSERT INTO quota.calendar_leases "
            "(tenant_id, model, resource, time_window, window_start, gateway_id, held) "
            "VALUES ('acme', '', 'REQUESTS', 'DAY', quota.window_start('DAY', %s), 'gateway-7', 10)",
            (NOW,),
        )
    async with spool_writer(client, gateway_id="gateway-7", spool_id=str(uuid.uuid4())) as spool:
        await spool.send(*[request_record("acme") for _ in range(4)])
        with psycopg.connect(database_url) as owner:
            assert owner.execute("SELECT held FROM quota.calendar_leases").fetchall() == [(6,)]
        await spool.send(closes=True)
        with psycopg.connect(database_url) as owner:
            assert owner.execute("SELECT held FROM quota.calendar_leases").fetchall() == []


async def test_an_export_is_whole_and_oldest_first(client: QuotaClient) -> None:
    records = [request_record("acme", admitted_at=NOW - timedelta(seconds=number % 50)) for number in range(1_000)]
    async with spool_writer(client) as spool:
        await spool.send(*records)
        await spool.send(*(request_record("acme", admitted_at=NOW) for _ in range(30)))
    request = usage_pb2.ExportRequestsRequest(
        start_time=timestamp(NOW - timedelta(days=1)), end_time=timestamp(NOW + timedelta(seconds=1))
    )
    method: Any = client.channel.unary_stream(  # pyright: ignore[reportUnknownMemberType]
        "/headrace.quota.v1.UsageService/ExportRequests",
        request_serializer=usage_pb2.ExportRequestsRequest.SerializeToString,
        response_deserializer=usage_pb2.ExportRequestsResponse.FromString,
    )
    rows = [row async for part in method(request, metadata=client.token(ACME)) for row in part.requests]
    assert len({row.id for row in rows}) == 1_030
    assert rows == sorted(rows, key=lambda row: (row.admit_time.seconds, row.id))
