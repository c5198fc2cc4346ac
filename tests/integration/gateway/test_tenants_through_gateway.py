"""`TenantService` through the gateway: what the quota service answers reaches the client as it is."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2

from headrace.quota.v1 import tenants_pb2 as pb
from headrace.quota.v1 import tenants_pb2_grpc
from headrace_common.errors import HeadraceError
from headrace_common.rpc_status import STATUS_DETAILS_KEY, from_rpc_error
from support.gateway import FrontDoor

SERVICE = "/headrace.quota.v1.TenantService"
REVOCATION_S = 5.0


async def failure_of(call: Any) -> HeadraceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def status_bytes(door: FrontDoor, method: str, request: Message, key: str) -> tuple[object, ...]:
    """Everything that a refused client gets except for its request id."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.channel.unary_unary(f"{SERVICE}/{method}")(
            request.SerializeToString(), metadata=(("x-api-key", key),), timeout=60
        )
    trailing = [pair for pair in caught.value.trailing_metadata() or () if pair[0] != "x-request-id"]
    return caught.value.code(), caught.value.details(), sorted(trailing)


async def test_every_method_answers_through_the_gateway(quota_door: FrontDoor) -> None:
    stub = tenants_pb2_grpc.TenantServiceStub(quota_door.channel)
    tenant_id = f"t-{secrets.token_hex(6)}"
    options: dict[str, Any] = {"metadata": quota_door.admin, "timeout": 60}
    made = await stub.CreateTenant(pb.CreateTenantRequest(id=tenant_id, metadata={"team": "blue"}), **options)
    assert (made.tenant.id, made.tenant.status) == (tenant_id, pb.TENANT_STATUS_ACTIVE)
    assert (await stub.GetTenant(pb.GetTenantRequest(id=tenant_id), **options)).tenant == made.tenant
    listed: list[str] = []
    token = ""
    while True:
        page = await stub.ListTenants(pb.ListTenantsRequest(page_size=2, page_token=token), **options)
        listed += [tenant.id for tenant in page.tenants]
        token = page.next_page_token
        if not token:
            break
    assert {"default", "community", tenant_id} <= set(listed)
    assert listed == sorted(listed)
    suspended = await stub.SuspendTenant(pb.SuspendTenantRequest(id=tenant_id), **options)
    assert suspended.tenant.status == pb.TENANT_STATUS_SUSPENDED
    resumed = await stub.ResumeTenant(pb.ResumeTenantRequest(id=tenant_id), **options)
    assert resumed.tenant.status == pb.TENANT_STATUS_ACTIVE
    key = await stub.CreateApiKey(pb.CreateApiKeyRequest(tenant_id=tenant_id, roles=[pb.ROLE_USER]), **options)
    keys = await stub.ListApiKeys(pb.ListApiKeysRequest(tenant_id=tenant_id), **options)
    assert [known.id for known in keys.api_keys] == [key.api_key.id]
    revoked = await stub.RevokeApiKey(pb.RevokeApiKeyRequest(id=key.api_key.id), **options)
    assert revoked.api_key.HasField("revoke_time")


async def test_revoked_key_is_refused_within_five_seconds(quota_door: FrontDoor) -> None:
    _, key_id, key = await quota_door.new_tenant(pb.ROLE_VIEWER)
    stub = tenants_pb2_grpc.TenantServiceStub(quota_door.channel)
    await stub.RevokeApiKey(pb.RevokeApiKeyRequest(id=key_id), metadata=quota_door.admin, timeout=60)
    revoked_at = time.monotonic()
    while (reason := await quota_door.refusal_of(key)) is None:
        assert time.monotonic() - revoked_at < REVOCATION_S
    assert reason == "KEY_REVOKED"


async def test_suspended_tenant_is_refused_within_five_seconds_and_served_again_after(quota_door: FrontDoor) -> None:
    tenant_id, _, key = await quota_door.new_tenant(pb.ROLE_VIEWER)
    stub = tenants_pb2_grpc.TenantServiceStub(quota_door.channel)
    await stub.SuspendTenant(pb.SuspendTenantRequest(id=tenant_id), metadata=quota_door.admin, timeout=60)
    suspended_at = time.monotonic()
    while (reason := await quota_door.refusal_of(key)) is None:
        assert time.monotonic() - suspended_at < REVOCATION_S
    assert reason == "TENANT_SUSPENDED"
    await stub.ResumeTenant(pb.ResumeTenantRequest(id=tenant_id), metadata=quota_door.admin, timeout=60)
    resumed_at = time.monotonic()
    while await quota_door.refusal_of(key) is not None:
        assert time.monotonic() - resumed_at < REVOCATION_S


@pytest.mark.parametrize(
    ("method", "request_of"),
    [
        ("GetTenant", lambda tenant_id: pb.GetTenantRequest(id=tenant_id)),
        ("SuspendTenant", lambda tenant_id: pb.SuspendTenantRequest(id=tenant_id)),
        ("ResumeTenant", lambda tenant_id: pb.ResumeTenantRequest(id=tenant_id)),
        ("CreateApiKey", lambda tenant_id: pb.CreateApiKeyRequest(tenant_id=tenant_id, roles=[pb.ROLE_USER])),
        ("ListApiKeys", lambda tenant_id: pb.ListApiKeysRequest(tenant_id=tenant_id)),
    ],
)
@pytest.mark.parametrize("role", [pb.ROLE_VIEWER, pb.ROLE_ADMIN])
async def test_foreign_tenant_looks_absent_byte_for_byte(
    quota_door: FrontDoor, method: str, request_of: Any, role: pb.Role.ValueType
) -> None:
    _, _, key = await quota_door.new_tenant(role)
    foreign = f"t-{secrets.token_hex(6)}"
    before = await status_bytes(quota_door, method, request_of(foreign), key)
    await tenants_pb2_grpc.TenantServiceStub(quota_door.channel).CreateTenant(
        pb.CreateTenantRequest(id=foreign), metadata=quota_door.admin, timeout=60
    )
    assert await status_bytes(quota_door, method, request_of(foreign), key) == before
    assert before[0] is grpc.StatusCode.NOT_FOUND


async def test_foreign_key_looks_absent_byte_for_byte(quota_door: FrontDoor) -> None:
    _, foreign_key_id, _ = await quota_door.new_tenant(pb.ROLE_USER)
    _, _, key = await quota_door.new_tenant(pb.ROLE_ADMIN)
    absent_id = str(uuid.uuid4())
    absent = await status_bytes(quota_door, "RevokeApiKey", pb.RevokeApiKeyRequest(id=absent_id), key)
    foreign = await status_bytes(quota_door, "RevokeApiKey", pb.RevokeApiKeyRequest(id=foreign_key_id), key)
    assert repr(foreign).replace(foreign_key_id, absent_id) == repr(absent)
    assert absent[0] is grpc.StatusCode.NOT_FOUND


async def test_details_of_the_quota_service_arrive_unchanged(quota_door: FrontDoor) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tenants_pb2_grpc.TenantServiceStub(quota_door.channel).CreateTenant(
            pb.CreateTenantRequest(id="Not A Tenant"), metadata=quota_door.admin, timeout=60
        )
    trailing = dict(caught.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing[STATUS_DETAILS_KEY])  # pyright: ignore
    assert status.message == caught.value.details()
    failure = from_rpc_error(caught.value)
    assert (failure.reason, failure.field) == ("TENANT_ID_INVALID", "id")


async def test_forged_principals_are_neither_read_nor_passed_on(quota_door: FrontDoor) -> None:
    tenant_id, _, key = await quota_door.new_tenant(pb.ROLE_VIEWER)
    stub = tenants_pb2_grpc.TenantServiceStub(quota_door.channel)
    forged = (
        ("x-headrace-principal", "eyJhbGciOiJub25lIn0.eyJ0ZW5hbnQiOiJkZWZhdWx0In0."),
        ("x-headrace-tenant", "default"),
    )
    mine = await stub.GetTenant(pb.GetTenantRequest(), metadata=(("x-api-key", key), *forged), timeout=60)
    assert mine.tenant.id == tenant_id
    failure = await failure_of(stub.GetTenant(pb.GetTenantRequest(), metadata=forged, timeout=60))
    assert failure.reason == "CREDENTIAL_MISSING"


async def test_request_id_comes_back_on_success_and_failure(quota_door: FrontDoor) -> None:
    stub = tenants_pb2_grpc.TenantServiceStub(quota_door.channel)
    for request, sent, expected in (
        (pb.GetTenantRequest(), "my-id.1", "my-id.1"),
        (pb.GetTenantRequest(id="nobody-there"), "my-id.2", "my-id.2"),
        (pb.GetTenantRequest(), "bad id {1}", None),
        (pb.GetTenantRequest(), None, None),
    ):
        ids = (("x-request-id", sent),) if sent is not None else ()
        call = stub.GetTenant(request, metadata=(*quota_door.admin, *ids), timeout=60)
        trailing = dict(await call.trailing_metadata())
        answered = trailing["x-request-id"]
        assert answered == expected if expected else answered not in (None, "", sent)


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05ab", b"\x08", b"\x0a\x02\xff\xfe", b"\x07\x00"])
async def test_malformed_protobuf_has_its_own_code_and_a_fixed_text(quota_door: FrontDoor, raw: bytes) -> None:
    call = quota_door.channel.unary_unary(f"{SERVICE}/GetTenant")(raw, metadata=quota_door.admin, timeout=60)
    failure = await failure_of(call)
    assert (failure.reason, failure.message) == ("REQUEST_MALFORMED", "the request is not a valid protobuf message")


async def test_roles_are_required_before_the_quota_service_is_asked(quota_door: FrontDoor) -> None:
    _, _, key = await quota_door.new_tenant(pb.ROLE_MODEL_ADMIN)
    stub = tenants_pb2_grpc.TenantServiceStub(quota_door.channel)
    mine: dict[str, Any] = {"metadata": (("x-api-key", key),), "timeout": 60}
    for call in (
        stub.CreateTenant(pb.CreateTenantRequest(id="t-new"), **mine),
        stub.ListTenants(pb.ListTenantsRequest(), **mine),
        stub.RevokeApiKey(pb.RevokeApiKeyRequest(id=str(uuid.uuid4())), **mine),
    ):
        failure = await failure_of(call)
        assert (failure.reason, failure.context["required"] in ("admin", "operator")) == ("ROLE_FORBIDDEN", True)
