"""Administrative calls through the gateway reach the audit log, whole and in order; who changes it there is found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest

from headrace.gateway.v1 import mesh_pb2, mesh_pb2_grpc
from headrace.quota.v1 import audit_pb2, audit_pb2_grpc
from headrace.quota.v1 import tenants_pb2 as pb
from headrace.quota.v1.tenants_pb2_grpc import TenantServiceStub
from headrace_client.audit_chain import ChainCheck
from headrace_client.contracts.headrace.quota.v1 import audit_pb2 as client_pb2
from support.gateway import Backends, FrontDoor, Pairs, open_door

TENANTS = "/headrace.quota.v1.TenantService"


async def entries(door: FrontDoor, tenant_id: str, count: int, *, method: str = "") -> Sequence[audit_pb2.AuditEntry]:
    """A tenant's chain, or what is in it of one method, once it has so many entries."""
    stub = audit_pb2_grpc.AuditServiceStub(door.channel)
    request = audit_pb2.ListAuditEntriesRequest(tenant_id=tenant_id, method=method, page_size=1000)
    async with asyncio.timeout(60):
        while True:
            try:
                found = (await stub.ListAuditEntries(request, metadata=door.admin, timeout=30)).entries
            except grpc.aio.AioRpcError as error:
                # Right after its restart the gateway may not have found the service yet.
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
                found = []
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


def fault(tenant_id: str, chain: Sequence[audit_pb2.AuditEntry]) -> str:
    """Where a chain is broken, as clients find out."""
    check = ChainCheck(tenant_id)
    for entry in chain:
        if found := check.fault(client_pb2.AuditEntry.FromString(entry.SerializeToString())):
            return found
    return ""


async def refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name


def as_tenant(key: str) -> Pairs:
    return (("x-api-key", key),)


async def test_calls_that_change_something_are_a_chain_however_they_ended(quota_door: FrontDoor) -> None:
    tenant_id, key_id, key = await quota_door.new_tenant(pb.ROLE_ADMIN)
    stub = TenantServiceStub(quota_door.channel)
    options: dict[str, Any] = {"metadata": (*as_tenant(key), ("x-request-id", "audited-1")), "timeout": 60}
    made = await stub.CreateApiKey(pb.CreateApiKeyRequest(display_name="é", roles=[pb.ROLE_USER]), **options)
    await stub.GetTenant(pb.GetTenantRequest(), **options)
    await stub.RevokeApiKey(pb.RevokeApiKeyRequest(id=made.api_key.id), **options)
    assert await refused(stub.SuspendTenant(pb.SuspendTenantRequest(id="community"), **options)) == "NOT_FOUND"
    odd = pb.CreateApiKeyRequest(roles=[pb.ROLE_USER])
    odd.expire_time.seconds = 10**18
    assert await refused(stub.CreateApiKey(odd, **options)) == "INVALID_ARGUMENT"
    raw: Any = quota_door.channel.unary_unary(f"{TENANTS}/RotateApiKey")
    assert await refused(raw(b"\xff", **options)) == "INVALID_ARGUMENT"
    # What the gateway refuses by itself is not passed on.
    mesh = mesh_pb2_grpc.MeshServiceStub(quota_door.channel)
    assert await refused(mesh.DrainRunner(mesh_pb2.DrainRunnerRequest(id="r"), **options)) == "PERMISSION_DENIED"
    chain = await entries(quota_door, tenant_id, 5)
    assert [(entry.method, entry.resource, entry.outcome) for entry in chain] == [
        (f"{TENANTS}/CreateApiKey", "", "OK"),
        (f"{TENANTS}/RevokeApiKey", made.api_key.id, "OK"),
        (f"{TENANTS}/SuspendTenant", "community", "NOT_FOUND"),
        (f"{TENANTS}/CreateApiKey", "", "INVALID_ARGUMENT"),
        (f"{TENANTS}/RotateApiKey", "", "INVALID_ARGUMENT"),
    ]
    assert {(entry.actor, entry.request_id) for entry in chain} == {(f"key:{key_id}", "audited-1")}
    assert {entry.gateway_id for entry in chain} == {quota_door.gateway.id}
    assert made.key not in "".join(entry.request_json for entry in chain)
    assert fault(tenant_id, chain) == ""


async def test_an_operators_own_runner_call_is_in_the_operators_chain(quota_door: FrontDoor) -> None:
    stub = mesh_pb2_grpc.MeshServiceStub(quota_door.channel)
    drain = stub.DrainRunner(mesh_pb2.DrainRunnerRequest(id="no-such-runner"), metadata=quota_door.admin, timeout=60)
    assert await refused(drain) == "NOT_FOUND"
    method = "/headrace.gateway.v1.MeshService/DrainRunner"
    found: list[str] = []
    # Other tests that share the mesh may have tried the same.
    while not found:
        written = await entries(quota_door, "default", 1, method=method)
        found = [entry.outcome for entry in written if entry.resource == "no-such-runner"]
    assert found == ["NOT_FOUND"]


@pytest.mark.fault
async def test_a_call_while_quota_is_away_is_written_down_and_told_when_it_is_back(quota_alone: Backends) -> None:
    async with open_door(quota_alone) as door:
        tenant_id, _, key = await door.new_tenant(pb.ROLE_ADMIN)
        stub = TenantServiceStub(door.channel)
        quota_alone.quota.kill()
        try:
            request = pb.CreateApiKeyRequest(roles=[pb.ROLE_USER])
            outcome = await refused(stub.CreateApiKey(request, metadata=as_tenant(key), timeout=60))
        finally:
            quota_alone.quota.start()
        (entry,) = await entries(door, tenant_id, 1)
        assert (outcome, entry.outcome) == ("UNAVAILABLE", "UNAVAILABLE")
        assert fault(tenant_id, [entry]) == ""


async def test_a_change_in_the_database_is_refused_and_a_forced_one_is_found(
    quota_alone: Backends, quota_door: FrontDoor
) -> None:
    tenant_id, _, key = await quota_door.new_tenant(pb.ROLE_ADMIN)
    stub = TenantServiceStub(quota_door.channel)
    for _ in range(3):
        await stub.CreateApiKey(pb.CreateApiKeyRequest(roles=[pb.ROLE_USER]), metadata=as_tenant(key), timeout=60)
    assert fault(tenant_id, await entries(quota_door, tenant_id, 3)) == ""
    change = "UPDATE quota.audit_log SET actor = 'key:somebody' WHERE tenant_id = %s AND sequence = 2"
    removal = "DELETE FROM quota.audit_log WHERE tenant_id = %s AND sequence = 2"
    owner_url = quota_alone.quota.environment["HEADRACE_POSTGRES_URL"]
    async with await psycopg.AsyncConnection.connect(owner_url, autocommit=True) as connection:
        for statement in (change, removal):
            with pytest.raises(psycopg.errors.RestrictViolation):
                await connection.execute(statement, (tenant_id,))
        # Who owns the tables can take the trigger away.
        async with connection.transaction(force_rollback=False):
            await connection.execute("ALTER TABLE quota.audit_log DISABLE TRIGGER audit_log_append_only")
            await connection.execute(change, (tenant_id,))
        changed = fault(tenant_id, await entries(quota_door, tenant_id, 3))
        await connection.execute(removal, (tenant_id,))
        removed = fault(tenant_id, await entries(quota_door, tenant_id, 2))
        await connection.execute("ALTER TABLE quota.audit_log ENABLE TRIGGER audit_log_append_only")
    assert changed == "entry 2 is not what was written: its hash is another one"
    assert removed == "entry 2 is missing: 3 comes after 1"
