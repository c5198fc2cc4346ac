"""Every admitted call is in the ledger once and charged once, whatever dies meanwhile; and the ledger stays quick."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest

from headrace.quota.v1 import quotas_pb2, usage_pb2
from headrace_common.request_id import REQUEST_ID_KEY
from headrace_quota.messages import timestamp
from inference.open_inference_pb2 import ModelInferRequest
from support.load import infer_stub
from support.mesh import Mesh
from support.quota import Keys, admin_of, running_quota
from support.soak import Measured, restart
from support.spooled import request_record, spool_writer

CALLS = 10_000
CALLERS = 32
CANCELLED_SHARE = 0.2
KILLS = 4
TENANT = "community"
ROWS = 1_000_000
BATCH = 1_000
QUERY_MS_MAX = 100.0


def unary(channel: grpc.aio.Channel, request: Any) -> Any:
    """The method that a request message of the quota service belongs to."""
    (service,) = type(request).DESCRIPTOR.file.services_by_name.values()
    method = service.methods_by_name[type(request).__name__.removesuffix("Request")]
    answer: Any = getattr(quotas_pb2, method.output_type.name)
    return channel.unary_unary(  # pyright: ignore[reportUnknownMemberType]
        f"/{service.full_name}/{method.name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )


async def ledger_rows(channel: grpc.aio.Channel, metadata: Any, since: datetime) -> list[usage_pb2.RequestRecord]:
    """The tenant's rows as an export gives them."""
    method: Any = channel.unary_stream(  # pyright: ignore[reportUnknownMemberType]
        "/headrace.quota.v1.UsageService/ExportRequests",
        request_serializer=usage_pb2.ExportRequestsRequest.SerializeToString,
        response_deserializer=usage_pb2.ExportRequestsResponse.FromString,
    )
    span = usage_pb2.ExportRequestsRequest(
        start_time=timestamp(since), end_time=timestamp(datetime.now(UTC) + timedelta(seconds=1))
    )
    return [row async for part in method(span, metadata=metadata, timeout=60) for row in part.requests]


async def call_until(
    channel: grpc.aio.Channel, metadata: Any, request: bytes, ends: dict[str, str], chance: Random
) -> None:
    """Calls, each with a request id of its own and without retries, until there were enough."""
    stub = infer_stub(channel)
    while len(ends) < CALLS:
        request_id = uuid.uuid4().hex
        ends[request_id] = "pending"
        patience_s = chance.uniform(0, 0.03) if chance.random() < CANCELLED_SHARE else 20.0
        call: Any = stub(request, metadata=(*metadata, (REQUEST_ID_KEY, request_id)), timeout=30)
        try:
            async with asyncio.timeout(patience_s):
                await call
        except TimeoutError:
            call.cancel()
            ends[request_id] = "cancelled"
        except grpc.aio.AioRpcError as error:
            ends[request_id] = error.code().name
            # A gateway that is away refuses at once.
            await asyncio.sleep(0.05)
        else:
            ends[request_id] = "OK"


async def used_and_held(channel: grpc.aio.Channel, metadata: Any) -> tuple[int, int]:
    """Of the day's quota of requests."""
    request = quotas_pb2.GetQuotaUsageRequest()
    answer = await unary(channel, request)(request, metadata=metadata, timeout=20)
    (usage,) = [usage for usage in answer.usages if usage.limit.window == quotas_pb2.WINDOW_DAY]
    return usage.used, usage.held


@pytest.mark.parametrize("mesh", [("--gateways", "2", "--runners", "2")], indirect=True)
async def test_every_admitted_call_is_in_the_ledger_once_and_charged_once(
    mesh: Mesh, file_request: ModelInferRequest, measured: Measured
) -> None:
    since = datetime.now(UTC)
    operator = (("x-api-key", (mesh.state_dir / "secrets" / "admin.key").read_text().strip()),)
    target = "ipv4:" + ",".join(sorted({str(process.grpc) for process in mesh.named("gateway")}))
    ends: dict[str, str] = {}
    async with grpc.aio.insecure_channel(target) as channel:
        limit = quotas_pb2.Limit(resource=quotas_pb2.RESOURCE_REQUESTS, window=quotas_pb2.WINDOW_DAY, amount=10_000_000)
        limits = quotas_pb2.SetLimitsRequest(tenant_id=TENANT, limits=[limit])
        await unary(channel, limits)(limits, metadata=operator, timeout=20)
        used_before, _ = await used_and_held(channel, mesh.metadata)
        body = file_request.SerializeToString()
        callers = [
            asyncio.create_task(call_until(channel, mesh.metadata, body, ends, Random(number)))
            for number in range(CALLERS)
        ]
        for kill in range(KILLS):
            while len(ends) < CALLS * (kill + 1) // (KILLS + 1):
                await asyncio.sleep(0.05)
            name = ("runner-0", "gateway-0", "runner-1", "gateway-1")[kill]
            os.kill(mesh.current_processes()[name].pid, signal.SIGKILL)
        await asyncio.gather(*callers)
        rows, used, held = await settled(channel, mesh, since)
    by_request = Counter(row.request_id for row in rows if row.request_id in ends)
    outcomes = Counter(ends.values())
    answered = {request_id for request_id, end in ends.items() if end == "OK"}
    unaccounted = answered - {row.request_id for row in rows if row.status == usage_pb2.REQUEST_STATUS_OK}
    abandoned = sum(row.status == usage_pb2.REQUEST_STATUS_ABANDONED for row in rows)
    charged = used - used_before
    admitted = sum(row.calls for row in rows)
    measured(
        f"{CALLS} calls through 2 gateways, {CANCELLED_SHARE:.0%} cancelled at random, each gateway and runner killed",
        "a row for each admitted call, none twice; the quota's use is the sum of the rows; nothing is held afterwards",
        f"{', '.join(f'{number} {what}' for what, number in outcomes.most_common())}; {len(rows)} rows, "
        f"{max(by_request.values())} at most of one call, {len(unaccounted)} answered calls without; "
        f"{abandoned} abandoned by killed gateways; used {charged}, held {held}",
    )
    assert not unaccounted
    assert max(by_request.values()) == 1
    assert charged == admitted
    assert held == 0


async def settled(
    channel: grpc.aio.Channel, mesh: Mesh, since: datetime
) -> tuple[list[usage_pb2.RequestRecord], int, int]:
    """Rows and use once two looks agree, and then what is held when all gateways have given back what they may."""
    last = (-1, -1)
    for _ in range(30):
        await asyncio.sleep(3)
        rows = await ledger_rows(channel, mesh.metadata, since)
        used, _ = await used_and_held(channel, mesh.metadata)
        if (len(rows), used) == last:
            break
        last = (len(rows), used)
    # Gateways that end in order keep nothing; what is held then was lost with those that were killed.
    await restart(mesh)
    used, held = await used_and_held(channel, mesh.metadata)
    give_up_at = time.monotonic() + 20
    while held and time.monotonic() < give_up_at:
        await asyncio.sleep(1)
        used, held = await used_and_held(channel, mesh.metadata)
    return await ledger_rows(channel, mesh.metadata, since), used, held


async def test_a_month_of_a_million_calls_is_summed_up_quickly(
    quota_database_url: str, tmp_path: Path, measured: Measured
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    models = [f"model-{number}" for number in range(5)]
    async with running_quota(quota_database_url, Keys.generate(tmp_path)) as quota:
        await quota.client.create_tenant("acme")
        began = time.monotonic()
        async with spool_writer(quota.client) as spool:
            for batch in range(ROWS // BATCH):
                at = now - timedelta(days=30) * (batch / (ROWS // BATCH))
                records = [request_record("acme", admitted_at=at, model=models[row % 5]) for row in range(BATCH)]
                await spool.send(*records)
        took_s = time.monotonic() - began
        with psycopg.connect(quota_database_url, autocommit=True) as owner:
            owner.execute("ANALYZE")
        request = usage_pb2.SummarizeUsageRequest(
            start_time=timestamp(now - timedelta(days=31)), end_time=timestamp(now + timedelta(hours=1))
        )
        answer, spans_ms = usage_pb2.SummarizeUsageResponse(), list[float]()
        for _ in range(7):
            began = time.monotonic()
            answer = await quota.client.call(admin_of("acme"), request)
            spans_ms.append(1_000 * (time.monotonic() - began))
        assert sum(row.calls for row in answer.sums) == ROWS
    measured(
        f"{ROWS:,} calls into the ledger in batches of {BATCH}, then a tenant's usage of 31 days by model and day",
        f"≤ {QUERY_MS_MAX:.0f} ms, median of 7",
        f"written in {took_s:.0f} s, {ROWS / took_s:,.0f}/s; asked over gRPC {statistics.median(spans_ms):.1f} ms",
    )
    assert statistics.median(spans_ms) <= QUERY_MS_MAX
