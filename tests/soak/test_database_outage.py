"""PostgreSQL is stopped under load: calls are served and accounted as ever, and what was revoked stays refused."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from headrace.quota.v1 import audit_pb2, quotas_pb2, tenants_pb2, usage_pb2
from headrace.registry.v1 import models_pb2
from headrace_common.request_id import REQUEST_ID_KEY
from headrace_quota.messages import timestamp
from inference.open_inference_pb2 import ModelInferRequest
from support import onnx_models
from support.folders import open_folder
from support.gateway_doors import gateway_doors
from support.load import infer_stub, quantile
from support.mesh import Mesh, running_mesh
from support.parties import Operator, Pairs, operator, until
from support.restartable_postgres import RestartablePostgres, restartable_postgres
from support.soak import Measured, Tensor
from support.ways_in import Ways

pytestmark = pytest.mark.timeout(600)

TENANT = "community"
ROUNDS = 3
PHASE_S = 30.0
BACK_S = 8.0
PER_S = 20.0
"""Calls a second through each gateway."""
P99_RATIO_MAX = 1.5
REVOKED_WITHIN_S = 5.0
HTTP_CLIENTS = 8


@pytest.fixture
def database() -> Iterator[RestartablePostgres]:
    """A server that the test stops."""
    with restartable_postgres() as server:
        server.start()
        yield server


@pytest.fixture
def meshed(database: RestartablePostgres) -> Iterator[Mesh]:
    """Two gateways with a front each, and two runners, on that server."""
    environment = {"HEADRACE_POSTGRES_URL": database.url}
    with open_folder() as folder:
        options = ("--gateways", "2", "--runners", "2")
        with running_mesh(folder, *options, environment=environment, http=True) as mesh:
            yield mesh
        assert mesh.supervisor.returncode == 0, mesh.log.read_text(errors="replace")[-4000:]


@dataclass
class Calls:
    """What became of calls of a known key: how each ended, and latencies by the phase that it was planned in."""

    phase: str = "back"
    ends: dict[str, str] = field(default_factory=dict[str, str])
    latencies_s: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    async def send(self, door: grpc.aio.Channel, body: bytes, metadata: Any, planned_s: float) -> None:
        """One call with a request id of its own, without retries; latency counts from the planned moment."""
        await asyncio.sleep(planned_s - time.perf_counter())
        phase, request_id = self.phase, uuid.uuid4().hex
        try:
            await infer_stub(door)(body, metadata=(*metadata, (REQUEST_ID_KEY, request_id)), timeout=20)
        except grpc.aio.AioRpcError as error:
            self.ends[request_id] = f"{error.code().name} ({phase}): {error.details()}"
        else:
            self.ends[request_id] = "OK"
            self.latencies_s.setdefault(phase, []).append(time.perf_counter() - planned_s)

    async def paced(self, door: grpc.aio.Channel, body: bytes, metadata: Any, stop: asyncio.Event) -> None:
        """Calls at a fixed rate until told to stop, whatever the answers do."""
        planned_s = time.perf_counter()
        async with asyncio.TaskGroup() as calls:
            while not stop.is_set():
                calls.create_task(self.send(door, body, metadata, planned_s))
                planned_s += 1 / PER_S
                await asyncio.sleep(max(0.0, planned_s - time.perf_counter()))


def administrative(owner: Operator) -> dict[str, Callable[[], object]]:
    """Calls that need the database, of every service that has one; those named `+` leave an entry in the audit log."""
    limit = quotas_pb2.Limit(resource=quotas_pb2.RESOURCE_REQUESTS, window=quotas_pb2.WINDOW_HOUR, amount=10**9)
    return {
        "+CreateTenant": lambda: owner(owner.tenants.CreateTenant, tenants_pb2.CreateTenantRequest(id="late")),
        "+CreateApiKey": lambda: owner(owner.tenants.CreateApiKey, tenants_pb2.CreateApiKeyRequest(tenant_id=TENANT)),
        "+SetLimits": lambda: owner(
            owner.quotas.SetLimits, quotas_pb2.SetLimitsRequest(tenant_id=TENANT, limits=[limit])
        ),
        "+CreateModel": lambda: owner(owner.models.CreateModel, models_pb2.CreateModelRequest(name="late")),
        "ListTenants": lambda: owner(owner.tenants.ListTenants, tenants_pb2.ListTenantsRequest()),
        "GetQuotaUsage": lambda: owner(owner.quotas.GetQuotaUsage, quotas_pb2.GetQuotaUsageRequest(tenant_id=TENANT)),
        "ListRequests": lambda: owner(owner.usage.ListRequests, usage_pb2.ListRequestsRequest(tenant_id=TENANT)),
        "ListAuditEntries": lambda: owner(owner.audit.ListAuditEntries, audit_pb2.ListAuditEntriesRequest()),
        "ListModels": lambda: owner(owner.models.ListModels, models_pb2.ListModelsRequest()),
    }


def status(call: Callable[[], object]) -> str:
    """Name of the code that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        failed: Any = error
        return str(failed.code().name)
    return "OK"


def refused_everywhere(owner: Operator) -> Counter[str]:
    """How the administrative calls end, all made at once."""
    calls = administrative(owner)
    with ThreadPoolExecutor(len(calls)) as threads:
        return Counter(
            f"{name.lstrip('+')} {end}" for name, end in zip(calls, threads.map(status, calls.values()), strict=True)
        )


async def settled_rows(owner: Operator, since: datetime, count: int) -> list[usage_pb2.RequestRecord]:
    """The ledger's rows of the time, once there are so many and no more come."""

    def export() -> list[usage_pb2.RequestRecord]:
        span = usage_pb2.ExportRequestsRequest(
            tenant_id=TENANT,
            start_time=timestamp(since),
            end_time=timestamp(datetime.now(UTC) + timedelta(seconds=1)),
        )
        return [row for part in owner(owner.usage.ExportRequests, span) for row in part.requests]

    last = -1
    for _ in range(20):
        rows = await asyncio.to_thread(export)
        if len(rows) >= count and len(rows) == last:
            break
        last = len(rows)
        await asyncio.sleep(2)
    return await asyncio.to_thread(export)


def unavailable_entries(owner: Operator) -> int:
    """Entries of administrative calls that found no database."""
    request = audit_pb2.ListAuditEntriesRequest(page_size=1000)
    found = owner(owner.audit.ListAuditEntries, request).entries
    return sum(entry.outcome == "UNAVAILABLE" for entry in found)


def prepared(owner: Operator) -> tuple[Pairs, bytes]:
    """A key of a tenant that has limits, and a request for a model of its own."""
    caller, _ = owner.key(TENANT, tenants_pb2.ROLE_MODEL_ADMIN)
    # It costs next to nothing: what is measured is the mesh.
    caller.push("same", onnx_models.identity())
    limits = [
        quotas_pb2.Limit(resource=quotas_pb2.RESOURCE_REQUESTS, window=quotas_pb2.WINDOW_DAY, amount=10**7),
        quotas_pb2.Limit(resource=quotas_pb2.RESOURCE_REQUESTS, window=quotas_pb2.WINDOW_RATE, amount=2_000),
    ]
    owner(owner.quotas.SetLimits, quotas_pb2.SetLimitsRequest(tenant_id=TENANT, limits=limits))
    tensor = Tensor(name="x", datatype="FP32", shape=[1, 4])
    request = ModelInferRequest(model_name="same", inputs=[tensor], raw_input_contents=[bytes(16)])
    return caller.metadata, request.SerializeToString()


async def test_calls_are_served_and_accounted_while_the_database_is_away(
    meshed: Mesh, database: RestartablePostgres, measured: Measured
) -> None:
    since, calls, stop = datetime.now(UTC), Calls(), asyncio.Event()
    refused = Counter[str]()
    with grpc.insecure_channel(meshed.grpc) as channel:
        owner = operator(meshed, channel)
        metadata, body = await asyncio.to_thread(prepared, owner)
        async with gateway_doors(meshed) as doors:
            load = [asyncio.create_task(calls.paced(door, body, metadata, stop)) for door in doors.values()]
            for number in range(ROUNDS):
                await asyncio.sleep(BACK_S)
                calls.phase = f"there {number}"
                await asyncio.sleep(PHASE_S)
                calls.phase = f"away {number}"
                gone_s = time.monotonic()
                await asyncio.to_thread(database.stop)
                refused += await asyncio.to_thread(refused_everywhere, owner)
                await asyncio.sleep(PHASE_S - (time.monotonic() - gone_s))
                refused += await asyncio.to_thread(refused_everywhere, owner)
                calls.phase = "back"
                await asyncio.to_thread(database.start)
            await asyncio.sleep(BACK_S)
            stop.set()
            await asyncio.gather(*load)
        answered = {request_id for request_id, end in calls.ends.items() if end == "OK"}
        rows = await settled_rows(owner, since, len(answered))
        changes = 2 * ROUNDS * sum(name.startswith("+") for name in administrative(owner))
        await asyncio.to_thread(until, lambda: unavailable_entries(owner) >= changes)
        entries = unavailable_entries(owner)
    by_request = Counter(row.request_id for row in rows)
    ratios = [
        quantile(calls.latencies_s[f"away {number}"], 0.99) / quantile(calls.latencies_s[f"there {number}"], 0.99)
        for number in range(ROUNDS)
    ]
    failures = Counter(end for end in calls.ends.values() if end != "OK")
    p99_ms = {
        phase: 1_000 * statistics.median(quantile(calls.latencies_s[f"{phase} {n}"], 0.99) for n in range(ROUNDS))
        for phase in ("there", "away")
    }
    measured(
        f"PostgreSQL stopped {ROUNDS} times for {PHASE_S:g} s under {2 * PER_S:g} calls/s through 2 gateways",
        f"all calls served; p99 ≤ {P99_RATIO_MAX}× of that with it, median of the rounds; a row for each call and an "
        "entry for each administrative call afterwards; administration answers UNAVAILABLE",
        f"{len(answered)} of {len(calls.ends)} answered; p99 {p99_ms['there']:.1f} → {p99_ms['away']:.1f} ms, "
        f"{statistics.median(ratios):.2f}× ({min(ratios):.2f} to {max(ratios):.2f}); {len(rows)} rows, "
        f"{len(answered - by_request.keys())} calls without, {max(by_request.values())} at most of one; "
        f"{entries} of {changes} entries; "
        f"{sum(count for end, count in refused.items() if end.endswith(' UNAVAILABLE'))} of "
        f"{refused.total()} administrative calls UNAVAILABLE",
    )
    assert not failures
    assert all(end.endswith(" UNAVAILABLE") for end in refused), refused
    assert (len(rows), set(by_request.values())) == (len(answered), {1})
    assert entries == changes
    assert statistics.median(ratios) <= P99_RATIO_MAX


async def test_a_revoked_key_is_refused_everywhere_also_without_the_database(
    meshed: Mesh, database: RestartablePostgres, file_request: ModelInferRequest, measured: Measured
) -> None:
    body = file_request.SerializeToString()
    clients = [httpx.AsyncClient(base_url=str(meshed.http), timeout=30) for _ in range(HTTP_CLIENTS)]
    with grpc.insecure_channel(meshed.grpc) as channel:
        owner = operator(meshed, channel)
        kept, _ = await asyncio.to_thread(owner.key, TENANT, tenants_pb2.ROLE_USER)
        lost, lost_id = await asyncio.to_thread(owner.key, TENANT, tenants_pb2.ROLE_USER)
        late, late_id = await asyncio.to_thread(owner.key, TENANT, tenants_pb2.ROLE_USER)
        async with gateway_doors(meshed) as doors:
            revoked = Ways(doors=doors, clients=clients, key=lost.metadata[0][1], body=body)
            known = Ways(doors=doors, clients=clients, key=kept.metadata[0][1], body=body)
            await revoked.until_all("OK", 60)
            await known.until_all("OK", 60)
            await asyncio.to_thread(owner, owner.tenants.RevokeApiKey, tenants_pb2.RevokeApiKeyRequest(id=lost_id))
            refused_s = await revoked.until_all("UNAUTHENTICATED", 60)
            revoked_late = Ways(doors=doors, clients=clients, key=late.metadata[0][1], body=body)
            await revoked_late.until_all("OK", 60)
            await asyncio.to_thread(owner, owner.tenants.RevokeApiKey, tenants_pb2.RevokeApiKeyRequest(id=late_id))
            database.stop()
            refused_late_s = await revoked_late.until_all("UNAUTHENTICATED", 60)
            before = await revoked.outcomes()
            others = await known.outcomes()
            killed = meshed.current_processes()["gateway-0"].pid
            os.kill(killed, signal.SIGKILL)
            during = await seen_during(meshed, clients, (lost.metadata[0][1], kept.metadata[0][1]), body)
            again = meshed.current_processes()["gateway-0"].pid != killed
            await asyncio.to_thread(database.start)
        await asyncio.to_thread(until, kept.welcome, within_s=60)
        async with gateway_doors(meshed) as doors:
            await Ways(doors=doors, clients=clients, key=kept.metadata[0][1], body=body).until_all("OK", 60)
            after = await Ways(doors=doors, clients=clients, key=lost.metadata[0][1], body=body).outcomes()
    for client in clients:
        await client.aclose()
    measured(
        f"a key revoked: unary, open and new packed streams through 2 gateways, HTTP over {HTTP_CLIENTS} connections; "
        "then PostgreSQL stopped for 20 s and a gateway killed meanwhile",
        f"refused everywhere ≤ {REVOKED_WITHIN_S:g} s; never let in again; a known key is served",
        f"refused after {refused_s:.2f} s by {len(before)} ways, a second one that was revoked just before PostgreSQL "
        f"stopped after {refused_late_s:.2f} s; while PostgreSQL was away: the revoked key "
        f"{told(during[0])}, a known one {told(during[1])}; afterwards {told(Counter(after.values()))}",
    )
    assert max(refused_s, refused_late_s) <= REVOKED_WITHIN_S
    assert set(before.values()) == {"UNAUTHENTICATED"}
    assert set(others.values()) == {"OK"}
    assert during[0].keys() <= {"UNAUTHENTICATED", "UNAVAILABLE"}
    assert during[0]["UNAUTHENTICATED"] and during[1].keys() <= {"OK", "UNAVAILABLE"}
    assert again
    assert set(after.values()) == {"UNAUTHENTICATED"}


async def seen_during(
    mesh: Mesh, clients: list[httpx.AsyncClient], keys: tuple[str, str], body: bytes
) -> tuple[Counter[str], Counter[str]]:
    """How calls with each key end for 20 s, over new connections, which any gateway may take."""
    seen = (Counter[str](), Counter[str]())
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        channel = grpc.aio.insecure_channel(mesh.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
        for counts, key in zip(seen, keys, strict=True):
            try:
                for end in (
                    await Ways(doors={"any": channel}, clients=clients, key=key, body=body).outcomes()
                ).values():
                    counts[end] += 1
            except httpx.TransportError:
                counts["UNAVAILABLE"] += 1
        await channel.close()
        await asyncio.sleep(0.2)
    return seen


def told(counts: Counter[str]) -> str:
    """Outcomes by how often."""
    return ", ".join(f"{count}× {end}" for end, count in counts.most_common())
