"""Every RPC of TenantService, over gRPC, with principals signed as a gateway signs them."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from headrace.quota.v1 import tenants_pb2 as pb
from headrace.quota.v1 import tenants_pb2_grpc as pb_grpc
from headrace_common.errors import HeadraceError
from headrace_common.features import FEATURES
from headrace_common.principal import PRINCIPAL_KEY, Principal
from headrace_common.rpc_status import STATUS_DETAILS_KEY
from support.quota import OPERATOR, Keys, QuotaClient, admin_of

ACME = admin_of("acme")
RIVAL = admin_of("rival")
ID = str(uuid.UUID(int=1))


@pytest.fixture(autouse=True)
async def two_tenants(client: QuotaClient) -> None:
    await client.create_tenant("acme")
    await client.create_tenant("rival")


async def failure(client: QuotaClient, caller: Principal, request: Message) -> HeadraceError:
    with pytest.raises(HeadraceError) as refused:
        await client.call(caller, request)
    return refused.value


def moment(delta: timedelta) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + delta)
    return stamp


async def test_tenant_lives_from_creation_through_suspension_to_resumption(client: QuotaClient) -> None:
    request = pb.CreateTenantRequest(id="corp", display_name="Corp", tier="gold", metadata={"team": "ml"})
    made = (await client.call(OPERATOR, request)).tenant
    assert (made.id, made.display_name, made.tier, dict(made.metadata)) == ("corp", "Corp", "gold", {"team": "ml"})
    assert made.status == pb.TENANT_STATUS_ACTIVE
    assert (await client.call(OPERATOR, request)).tenant == made
    assert (await client.call(OPERATOR, pb.GetTenantRequest(id="corp"))).tenant == made
    assert (await client.call(admin_of("corp", "viewer"), pb.GetTenantRequest())).tenant == made

    suspended = (await client.call(OPERATOR, pb.SuspendTenantRequest(id="corp"))).tenant
    assert suspended.status == pb.TENANT_STATUS_SUSPENDED
    assert (await client.call(OPERATOR, pb.SuspendTenantRequest(id="corp"))).tenant == suspended
    resumed = (await client.call(OPERATOR, pb.ResumeTenantRequest(id="corp"))).tenant
    assert resumed.status == pb.TENANT_STATUS_ACTIVE
    assert resumed.create_time == made.create_time
    assert resumed.update_time.ToNanoseconds() > suspended.update_time.ToNanoseconds()


async def test_other_fields_under_a_taken_id_are_refused(client: QuotaClient) -> None:
    refused = await failure(client, OPERATOR, pb.CreateTenantRequest(id="acme", tier="gold"))
    assert (refused.reason, refused.entry.grpc) == ("TENANT_ALREADY_EXISTS", "ALREADY_EXISTS")
    assert (await client.call(OPERATOR, pb.GetTenantRequest(id="acme"))).tenant.tier == "standard"


async def test_concurrent_creations_of_one_tenant_agree(client: QuotaClient) -> None:
    answers = await asyncio.gather(*(client.call(OPERATOR, pb.CreateTenantRequest(id="race")) for _ in range(12)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1


async def test_tenants_come_in_pages_by_id(client: QuotaClient) -> None:
    for number in range(5):
        await client.create_tenant(f"t{number}")
    seen: list[str] = []
    token = ""
    while True:
        page = await client.call(OPERATOR, pb.ListTenantsRequest(page_size=3, page_token=token))
        seen += [tenant.id for tenant in page.tenants]
        token = page.next_page_token
        if not token:
            break
        assert len(page.tenants) == 3
    assert seen == ["acme", "default", "rival", "t0", "t1", "t2", "t3", "t4"]


async def test_key_is_shown_once_and_stored_only_as_its_digest(client: QuotaClient, database_url: str) -> None:
    expiry = moment(timedelta(days=1))
    request = pb.CreateApiKeyRequest(
        display_name="ci", roles=[pb.ROLE_ADMIN, pb.ROLE_VIEWER, pb.ROLE_ADMIN], expire_time=expiry
    )
    made = await client.call(ACME, request)
    key = made.api_key
    assert made.key.startswith(key.prefix + "_")
    assert list(key.roles) == [pb.ROLE_VIEWER, pb.ROLE_ADMIN]
    assert (key.tenant_id, key.display_name) == ("acme", "ci")
    assert key.expire_time.ToMicroseconds() == expiry.ToMicroseconds()
    listed = await client.call(ACME, pb.ListApiKeysRequest())
    assert list(listed.api_keys) == [key]
    secret = made.key.rpartition("_")[2]
    assert secret.encode() not in listed.SerializeToString()
    with psycopg.connect(database_url) as superuser:
        rows = superuser.execute("SELECT k::text, key_sha256 FROM quota.api_keys k").fetchall()
    assert [digest for _, digest in rows] == [hashlib.sha256(made.key.encode()).digest()]
    assert secret not in rows[0][0]


async def test_same_creation_twice_makes_two_keys(client: QuotaClient) -> None:
    first, second = [await client.call(ACME, pb.CreateApiKeyRequest()) for _ in range(2)]
    assert first.key != second.key
    assert list(first.api_key.roles) == [pb.ROLE_USER]
    listed = await client.call(ACME, pb.ListApiKeysRequest())
    assert [key.id for key in listed.api_keys] == [second.api_key.id, first.api_key.id]


async def test_keys_come_in_pages_and_a_token_fits_only_its_listing(client: QuotaClient) -> None:
    made = [(await client.create_key("acme")).api_key.id for _ in range(5)]
    first = await client.call(ACME, pb.ListApiKeysRequest(page_size=2))
    second = await client.call(
        OPERATOR, pb.ListApiKeysRequest(tenant_id="acme", page_size=10, page_token=first.next_page_token)
    )
    assert [key.id for key in (*first.api_keys, *second.api_keys)] == made[::-1]
    assert second.next_page_token == ""
    request = pb.ListApiKeysRequest(page_token=first.next_page_token)
    assert (await failure(client, RIVAL, request)).reason == "PAGE_TOKEN_INVALID"


async def test_revoked_key_stays_listed_with_its_first_time(client: QuotaClient) -> None:
    key = (await client.call(ACME, pb.CreateApiKeyRequest())).api_key
    revoked = (await client.call(ACME, pb.RevokeApiKeyRequest(id=key.id))).api_key
    assert revoked.HasField("revoke_time")
    assert (await client.call(ACME, pb.RevokeApiKeyRequest(id=key.id))).api_key == revoked
    assert list((await client.call(ACME, pb.ListApiKeysRequest())).api_keys) == [revoked]


def policed(*actions: Any, models: Sequence[str] = (), roles: Sequence[Any] = ()) -> pb.CreateApiKeyRequest:
    policy = pb.ResourcePolicy(actions=actions, models=models)
    return pb.CreateApiKeyRequest(policies=[policy], roles=roles)


def update(*paths: str, **fields: Any) -> pb.UpdateTenantRequest:
    fields.setdefault("id", "acme")
    return pb.UpdateTenantRequest(tenant=pb.Tenant(**fields), update_mask=FieldMask(paths=paths))


async def test_operator_changes_a_tenant_field_by_field(client: QuotaClient) -> None:
    request = update("tier", "metadata.feature.http", "isolation", tier="gold", metadata={"feature.http": "off"})
    request.tenant.isolation = pb.ISOLATION_DEDICATED
    changed = (await client.call(OPERATOR, request)).tenant
    assert (changed.tier, changed.isolation) == ("gold", pb.ISOLATION_DEDICATED)
    assert dict(changed.metadata) == {"feature.http": "off"}
    assert (await client.call(OPERATOR, request)).tenant == changed
    gone = (await client.call(OPERATOR, update("metadata.feature.http", "tier", "isolation"))).tenant
    assert (gone.tier, gone.isolation, dict(gone.metadata)) == ("standard", pb.ISOLATION_SHARED, {})


async def test_unknown_feature_is_refused_with_the_list(client: QuotaClient) -> None:
    for request in (
        update("metadata.feature.htpp", metadata={"feature.htpp": "off"}),
        update("metadata", metadata={"feature.": "off"}),
        pb.CreateTenantRequest(id="corp", metadata={"feature.HTTP": "off"}),
    ):
        refused = await failure(client, OPERATOR, request)
        assert (refused.reason, refused.entry.grpc) == ("FEATURE_UNKNOWN", "INVALID_ARGUMENT")
        assert all(feature in str(refused) for feature in FEATURES)


async def test_policies_come_back_as_they_were_given(client: QuotaClient) -> None:
    policies = [
        pb.ResourcePolicy(actions=[pb.ACTION_READ, pb.ACTION_INFER, pb.ACTION_READ], models=["model-a", "team-*"]),
        pb.ResourcePolicy(actions=[pb.ACTION_WRITE]),
    ]
    made = (await client.call(ACME, pb.CreateApiKeyRequest(policies=policies))).api_key
    assert list(made.policies[0].actions) == [pb.ACTION_INFER, pb.ACTION_READ]
    assert list(made.policies[0].models) == ["model-a", "team-*"]
    assert made.policies[1] == policies[1]
    (listed,) = (await client.call(ACME, pb.ListApiKeysRequest())).api_keys
    assert listed == made


async def test_rotated_key_works_for_a_while_beside_the_one_that_follows_it(client: QuotaClient) -> None:
    key = (await client.call(ACME, pb.CreateApiKeyRequest(display_name="ci"))).api_key
    answer = await client.call(ACME, pb.RotateApiKeyRequest(id=key.id, overlap=Duration(seconds=600)))
    assert answer.key.startswith(answer.api_key.prefix + "_")
    assert (answer.api_key.rotated_from, answer.api_key.display_name) == (key.id, "ci")
    assert (answer.former.id, answer.former.prefix) == (key.id, key.prefix)
    left_s = answer.former.expire_time.seconds - datetime.now(UTC).timestamp()
    assert 500 < left_s <= 601
    day = await client.call(ACME, pb.RotateApiKeyRequest(id=answer.api_key.id))
    assert 86_000 < day.former.expire_time.seconds - datetime.now(UTC).timestamp() <= 86_401


async def test_use_of_a_key_is_remembered_to_the_minute_and_changes_nothing_else(
    client: QuotaClient, database_url: str
) -> None:
    key = (await client.call(ACME, pb.CreateApiKeyRequest())).api_key
    used = datetime(2026, 3, 4, 5, 6, 42, tzinfo=UTC)
    with psycopg.connect(database_url) as superuser:
        before = superuser.execute("SELECT updated_at FROM quota.api_keys").fetchall()
        revision = superuser.execute("SELECT revision FROM quota.principal_feed").fetchall()
        for key_id, at in ((key.id, used), (key.id, used - timedelta(days=1)), ("community", used), ("", used)):
            superuser.execute("SELECT quota.record_key_use('acme', %s, %s)", (key_id, at))
        assert superuser.execute("SELECT updated_at FROM quota.api_keys").fetchall() == before
        assert superuser.execute("SELECT revision FROM quota.principal_feed").fetchall() == revision
    (listed,) = (await client.call(ACME, pb.ListApiKeysRequest())).api_keys
    assert listed.last_use_time.ToDatetime(tzinfo=UTC) == used.replace(second=0)
    with psycopg.connect(database_url) as superuser:
        superuser.execute("SELECT quota.record_key_use('acme', %s, now() + interval '1 year')", (key.id,))
    (listed,) = (await client.call(ACME, pb.ListApiKeysRequest())).api_keys
    assert listed.last_use_time.ToDatetime(tzinfo=UTC) <= datetime.now(UTC)


FOREIGN: dict[str, Message] = {
    "get": pb.GetTenantRequest(id="rival"),
    "suspend": pb.SuspendTenantRequest(id="rival"),
    "resume": pb.ResumeTenantRequest(id="rival"),
    "update": pb.UpdateTenantRequest(tenant=pb.Tenant(id="rival"), update_mask=FieldMask(paths=["tier"])),
    "create key": pb.CreateApiKeyRequest(tenant_id="rival"),
    "list keys": pb.ListApiKeysRequest(tenant_id="rival"),
}


def raw_stub_call(client: QuotaClient, name: str) -> grpc.aio.UnaryUnaryMultiCallable[Message, Message]:
    return getattr(pb_grpc.TenantServiceStub(client.channel), name)


async def wire_failure(client: QuotaClient, caller: Principal, request: Message) -> tuple[object, str, bytes]:
    """Status, text and details of a failure, as a generated stub sees them."""
    method = raw_stub_call(client, type(request).__name__.removesuffix("Request"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await method(request, metadata=client.token(caller), timeout=20)
    details = dict(refused.value.trailing_metadata())[STATUS_DETAILS_KEY]
    assert isinstance(details, bytes)
    return refused.value.code(), refused.value.details() or "", details


@pytest.mark.parametrize("request_name", FOREIGN)
@pytest.mark.parametrize("role", ["admin", "user"])
async def test_foreign_tenant_is_not_found_byte_for_byte_like_an_absent_one(
    client: QuotaClient, request_name: str, role: str
) -> None:
    request = FOREIGN[request_name]
    absent_request = type(request).FromString(request.SerializeToString().replace(b"rival", b"ghost"))
    code, text, details = await wire_failure(client, admin_of("acme", role), request)
    assert code is grpc.StatusCode.NOT_FOUND
    absent = await wire_failure(client, admin_of("acme", role), absent_request)
    assert (code, text.replace("rival", "ghost"), details.replace(b"rival", b"ghost")) == absent
    listed = await client.call(RIVAL, pb.ListApiKeysRequest())
    assert not listed.api_keys


@pytest.mark.parametrize("kind", [pb.RevokeApiKeyRequest, pb.RotateApiKeyRequest])
async def test_foreign_key_is_not_found_byte_for_byte_like_an_absent_one(
    client: QuotaClient, kind: type[pb.RevokeApiKeyRequest]
) -> None:
    theirs = (await client.create_key("rival")).api_key.id
    unknown = str(uuid.uuid4())
    code, text, details = await wire_failure(client, ACME, kind(id=theirs))
    assert code is grpc.StatusCode.NOT_FOUND
    absent = await wire_failure(client, ACME, kind(id=unknown))
    assert (code, text.replace(theirs, unknown), details.replace(theirs.encode(), unknown.encode())) == absent
    (key,) = (await client.call(RIVAL, pb.ListApiKeysRequest())).api_keys
    assert not key.HasField("revoke_time")
    assert not key.HasField("expire_time")


@pytest.mark.parametrize(
    ("caller", "request_"),
    [
        (ACME, pb.CreateTenantRequest(id="corp")),
        (ACME, pb.ListTenantsRequest()),
        (ACME, pb.SuspendTenantRequest(id="acme")),
        (ACME, pb.ResumeTenantRequest(id="acme")),
        (ACME, update("metadata.feature.http")),
        (admin_of("acme", "user"), pb.RotateApiKeyRequest(id=str(uuid.UUID(int=1)))),
        (admin_of("default", "model_admin"), pb.CreateTenantRequest(id="corp")),
        (admin_of("acme", "model_admin"), pb.CreateApiKeyRequest()),
        (admin_of("acme", "user"), pb.ListApiKeysRequest()),
        (admin_of("acme", "viewer"), pb.RevokeApiKeyRequest(id=str(uuid.UUID(int=1)))),
    ],
)
async def test_missing_role_is_refused(client: QuotaClient, caller: Principal, request_: Message) -> None:
    refused = await failure(client, caller, request_)
    assert (refused.reason, refused.entry.grpc) == ("ROLE_FORBIDDEN", "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.CreateTenantRequest(), "FIELD_REQUIRED", "id"),
        (pb.CreateTenantRequest(id="Acme Corp"), "TENANT_ID_INVALID", "id"),
        (pb.CreateTenantRequest(id="corp", display_name="x" * 257), "FIELD_TOO_LONG", "display_name"),
        (pb.CreateTenantRequest(id="corp", tier="x\0"), "FIELD_INVALID", "tier"),
        (pb.CreateTenantRequest(id="corp", metadata={str(n): "" for n in range(65)}), "FIELD_TOO_LONG", "metadata"),
        (pb.GetTenantRequest(id="' OR 1=1 --"), "TENANT_ID_INVALID", "id"),
        (pb.ListTenantsRequest(page_size=-1), "FIELD_INVALID", "page_size"),
        (pb.ListTenantsRequest(page_size=1001), "FIELD_INVALID", "page_size"),
        (pb.ListTenantsRequest(page_token="nonsense"), "PAGE_TOKEN_INVALID", "page_token"),
        (pb.SuspendTenantRequest(), "FIELD_REQUIRED", "id"),
        (pb.ResumeTenantRequest(id="x" * 64), "TENANT_ID_INVALID", "id"),
        (pb.CreateApiKeyRequest(tenant_id="A"), "TENANT_ID_INVALID", "tenant_id"),
        (pb.CreateApiKeyRequest(display_name="x" * 257), "FIELD_TOO_LONG", "display_name"),
        (pb.CreateApiKeyRequest(roles=[pb.ROLE_UNSPECIFIED]), "FIELD_INVALID", "roles[0]"),
        (pb.CreateApiKeyRequest(expire_time=Timestamp(seconds=1)), "FIELD_INVALID", "expire_time"),
        (pb.CreateApiKeyRequest(expire_time=Timestamp(seconds=2**60)), "FIELD_INVALID", "expire_time"),
        (pb.ListApiKeysRequest(page_size=9999), "FIELD_INVALID", "page_size"),
        (pb.RevokeApiKeyRequest(), "FIELD_REQUIRED", "id"),
        (pb.RevokeApiKeyRequest(id="hr_not_a_uuid"), "FIELD_INVALID", "id"),
    ],
)
async def test_bad_input_is_refused_with_its_field(
    client: QuotaClient, request_: Message, reason: str, field: str
) -> None:
    before = await client.call(OPERATOR, pb.ListTenantsRequest())
    code, text, details = await wire_failure(client, OPERATOR, request_)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert field.partition("[")[0] in text
    found = {
        detail.type_url.rpartition(".")[2]: detail.value for detail in status_pb2.Status.FromString(details).details
    }
    assert error_details_pb2.ErrorInfo.FromString(found["ErrorInfo"]).reason == reason
    (violation,) = error_details_pb2.BadRequest.FromString(found["BadRequest"]).field_violations
    assert violation.field == field
    assert await client.call(OPERATOR, pb.ListTenantsRequest()) == before


async def test_bad_changes_policies_and_rotations_are_refused_with_their_field(client: QuotaClient) -> None:
    for request, reason, field in (
        (pb.CreateTenantRequest(id="corp", isolation=cast("Any", 7)), "FIELD_INVALID", "isolation"),
        (pb.CreateTenantRequest(id="corp", metadata={"feature.http": "no"}), "FIELD_INVALID", "metadata.value"),
        (update(), "FIELD_REQUIRED", "update_mask"),
        (update("id"), "FIELD_INVALID", "update_mask"),
        (update("status"), "FIELD_INVALID", "update_mask"),
        (update("metadata."), "FIELD_INVALID", "update_mask"),
        (update("metadata", "metadata.a"), "FIELD_INVALID", "update_mask"),
        (update(*(f"metadata.{n}" for n in range(200))), "FIELD_TOO_LONG", "update_mask"),
        (update("tier", id=""), "FIELD_REQUIRED", "tenant.id"),
        (update("tier", tier="x\n"), "FIELD_INVALID", "tenant.tier"),
        (update("display_name", display_name="x" * 257), "FIELD_TOO_LONG", "tenant.display_name"),
        (update("isolation", isolation=cast("Any", 7)), "FIELD_INVALID", "tenant.isolation"),
        (policed(), "FIELD_REQUIRED", "policies[0].actions"),
        (policed(pb.ACTION_UNSPECIFIED), "FIELD_INVALID", "policies[0].actions[0]"),
        (policed(pb.ACTION_INFER, models=[""]), "FIELD_INVALID", "policies[0].models[0]"),
        (policed(pb.ACTION_INFER, models=["a*b"]), "FIELD_INVALID", "policies[0].models[0]"),
        (policed(pb.ACTION_INFER, models=["a", "b:1"]), "FIELD_INVALID", "policies[0].models[1]"),
        (policed(pb.ACTION_INFER, models=["m"] * 101), "FIELD_TOO_LONG", "policies[0].models"),
        (policed(pb.ACTION_INFER, roles=[pb.ROLE_ADMIN]), "FIELD_INVALID", "policies"),
        (
            pb.CreateApiKeyRequest(policies=[pb.ResourcePolicy(actions=[pb.ACTION_READ])] * 21),
            "FIELD_TOO_LONG",
            "policies",
        ),
        (pb.RotateApiKeyRequest(), "FIELD_REQUIRED", "id"),
        (pb.RotateApiKeyRequest(id="x"), "FIELD_INVALID", "id"),
        (pb.RotateApiKeyRequest(id=ID, overlap=Duration(seconds=-1)), "FIELD_INVALID", "overlap"),
        (pb.RotateApiKeyRequest(id=ID, overlap=Duration(seconds=30 * 86_400, nanos=1000)), "FIELD_INVALID", "overlap"),
        (pb.RotateApiKeyRequest(id=ID, overlap=Duration(seconds=2**60)), "FIELD_INVALID", "overlap"),
        (pb.RotateApiKeyRequest(id=ID, expire_time=Timestamp(seconds=1)), "FIELD_INVALID", "expire_time"),
    ):
        refused = await failure(client, OPERATOR, request)
        assert (refused.reason, refused.entry.grpc, refused.field) == (reason, "INVALID_ARGUMENT", field)
    assert (await client.call(OPERATOR, pb.GetTenantRequest(id="acme"))).tenant.tier == "standard"


async def test_operators_tenant_cannot_be_suspended(client: QuotaClient) -> None:
    refused = await failure(client, OPERATOR, pb.SuspendTenantRequest(id="default"))
    assert (refused.reason, refused.entry.grpc) == ("TENANT_PROTECTED", "FAILED_PRECONDITION")


async def test_suspended_tenants_admin_makes_no_more_keys(client: QuotaClient) -> None:
    await client.call(OPERATOR, pb.SuspendTenantRequest(id="acme"))
    refused = await failure(client, ACME, pb.CreateApiKeyRequest())
    assert (refused.reason, refused.entry.grpc) == ("TENANT_SUSPENDED", "PERMISSION_DENIED")


async def test_malformed_bytes_are_refused(client: QuotaClient) -> None:
    method = client.channel.unary_unary("/headrace.quota.v1.TenantService/CreateTenant")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await method(b"\xff\xff\xff", metadata=client.token(OPERATOR), timeout=20)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_calls_without_a_fitting_token_are_refused(client: QuotaClient, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    tokens = {
        "CREDENTIAL_MISSING": (),
        "TOKEN_INVALID": ((PRINCIPAL_KEY, "x.y.z"),),
        "TOKEN_INVALID ": ((PRINCIPAL_KEY, Keys.generate(stranger).signer.sign(OPERATOR, audience="headrace-quota")),),
        "TOKEN_AUDIENCE_MISMATCH": ((PRINCIPAL_KEY, client.signer.sign(OPERATOR, audience="headrace-registry")),),
        "TOKEN_INVALID  ": ((PRINCIPAL_KEY, client.signer.sign_service(audience="headrace-quota")),),
    }
    stub = pb_grpc.TenantServiceStub(client.channel)
    for reason, metadata in tokens.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListTenants(pb.ListTenantsRequest(), metadata=metadata, timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        details = dict(refused.value.trailing_metadata())[STATUS_DETAILS_KEY]
        assert isinstance(details, bytes)
        assert reason.strip().encode() in details
