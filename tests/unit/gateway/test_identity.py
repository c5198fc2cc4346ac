"""Who calls is decided from metadata and memory alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from headrace.quota.internal.v1.principals_pb2 import KeyRecord, TenantRecord
from headrace.quota.v1 import tenants_pb2
from headrace_common.errors import HeadraceError
from headrace_common.testing import FakeClock
from headrace_gateway.identity import Identity
from headrace_gateway.principal_table import PrincipalTable

START = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = "hr_goodgood_" + "a" * 32
REVOKED = "hr_revokedd_" + "b" * 32
EXPIRED = "hr_expiredd_" + "c" * 32
SHORT_LIVED = "hr_shortliv_" + "d" * 32
SUSPENDED = "hr_suspende_" + "e" * 32
ORPHAN = "hr_orphanor_" + "f" * 32

Pairs = Sequence[tuple[str, str | bytes]]


def record(key: str, tenant_id: str = "acme", *, revoked: bool = False, expires: datetime | None = None) -> KeyRecord:
    message = KeyRecord(
        key_id=f"id-{key[3:11]}",
        tenant_id=tenant_id,
        key_sha256=hashlib.sha256(key.encode()).digest(),
        roles=[tenants_pb2.ROLE_USER],
        revoked=revoked,
    )
    if expires is not None:
        message.expire_time.FromDatetime(expires)
    return message


def filled_table() -> PrincipalTable:
    table = PrincipalTable()
    table.replace(
        [
            TenantRecord(tenant_id="acme", status=tenants_pb2.TENANT_STATUS_ACTIVE),
            TenantRecord(tenant_id="community", status=tenants_pb2.TENANT_STATUS_ACTIVE),
            TenantRecord(tenant_id="late-payer", status=tenants_pb2.TENANT_STATUS_SUSPENDED),
        ],
        [
            record(GOOD),
            record(REVOKED, revoked=True),
            record(EXPIRED, expires=START - timedelta(seconds=1)),
            record(SHORT_LIVED, expires=START + timedelta(seconds=10)),
            record(SUSPENDED, "late-payer"),
            record(ORPHAN, "nobody-knows"),
        ],
    )
    return table


def identity(
    *, community: bool = False, table: PrincipalTable | None = None, clock: FakeClock | None = None
) -> Identity:
    return Identity(
        table=table if table is not None else filled_table(), clock=clock or FakeClock(start=START), community=community
    )


def refusal(metadata: Pairs, *, community: bool = False) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        identity(community=community).authenticate(metadata)
    return caught.value


BAD: list[tuple[str, Pairs, str]] = [
    ("no metadata", (), "CREDENTIAL_MISSING"),
    ("other metadata only", (("user-agent", "x"), ("x-request-id", "1")), "CREDENTIAL_MISSING"),
    ("our own principal header", (("x-headrace-principal", "token"),), "CREDENTIAL_MISSING"),
    ("tenant header", (("x-headrace-tenant", "default"),), "CREDENTIAL_MISSING"),
    ("binary api key header", (("x-api-key-bin", GOOD.encode()),), "CREDENTIAL_MISSING"),
    ("cookie", (("cookie", f"x-api-key={GOOD}"),), "CREDENTIAL_MISSING"),
    ("names in capitals", (("X-API-Key", GOOD), ("Authorization", f"Bearer {GOOD}")), "CREDENTIAL_MISSING"),
    ("tenant of somebody else", (("x-api-key", GOOD), ("x-tenant-id", "rival")), "TENANT_MISMATCH"),
    ("tenant in capitals", (("x-api-key", GOOD), ("x-tenant-id", "ACME")), "TENANT_MISMATCH"),
    ("tenant with a blank", (("x-api-key", GOOD), ("x-tenant-id", "acme ")), "TENANT_MISMATCH"),
    ("empty tenant", (("x-tenant-id", ""), ("x-api-key", GOOD)), "TENANT_MISMATCH"),
    ("own tenant and another", (("x-tenant-id", "acme"), ("x-api-key", GOOD), ("x-tenant-id", "a")), "TENANT_MISMATCH"),
    ("tenant as bytes", (("x-tenant-id", b"acme"), ("x-api-key", GOOD)), "TENANT_MISMATCH"),
    ("tenant without a key", (("x-tenant-id", "acme"),), "CREDENTIAL_MISSING"),
    ("tenant of a suspended one", (("x-api-key", SUSPENDED), ("x-tenant-id", "acme")), "TENANT_SUSPENDED"),
    ("empty key", (("x-api-key", ""),), "CREDENTIAL_MALFORMED"),
    ("key of spaces", (("x-api-key", "   "),), "CREDENTIAL_MALFORMED"),
    ("key with a space inside", (("x-api-key", GOOD[:20] + " " + GOOD[20:]),), "CREDENTIAL_MALFORMED"),
    ("key with a leading space", (("x-api-key", " " + GOOD),), "CREDENTIAL_MALFORMED"),
    ("key with a newline", (("x-api-key", GOOD + "\n"),), "CREDENTIAL_MALFORMED"),
    ("key with a NUL", (("x-api-key", GOOD + "\0"),), "CREDENTIAL_MALFORMED"),
    ("key beyond ASCII", (("x-api-key", "hr_kéy"),), "CREDENTIAL_MALFORMED"),
    ("key too long", (("x-api-key", "a" * 257),), "CREDENTIAL_MALFORMED"),
    ("enormous key", (("x-api-key", "a" * 100_000),), "CREDENTIAL_MALFORMED"),
    ("key as bytes", (("x-api-key", GOOD.encode()),), "CREDENTIAL_MALFORMED"),
    ("same key twice", (("x-api-key", GOOD), ("x-api-key", GOOD)), "CREDENTIAL_MALFORMED"),
    ("good and bad key", (("x-api-key", GOOD), ("x-api-key", "hr_bad")), "CREDENTIAL_MALFORMED"),
    ("both headers, same key", (("x-api-key", GOOD), ("authorization", f"Bearer {GOOD}")), "CREDENTIAL_MALFORMED"),
    ("both headers, other key", (("authorization", "Bearer hr_bad"), ("x-api-key", GOOD)), "CREDENTIAL_MALFORMED"),
    ("two authorizations", (("authorization", f"Bearer {GOOD}"),) * 2, "CREDENTIAL_MALFORMED"),
    ("basic scheme", (("authorization", "Basic YTpi"),), "CREDENTIAL_MALFORMED"),
    ("no scheme", (("authorization", GOOD),), "CREDENTIAL_MALFORMED"),
    ("scheme alone", (("authorization", "Bearer"),), "CREDENTIAL_MALFORMED"),
    ("scheme and blank", (("authorization", "Bearer "),), "CREDENTIAL_MALFORMED"),
    ("two blanks", (("authorization", f"Bearer  {GOOD}"),), "CREDENTIAL_MALFORMED"),
    ("tab for a blank", (("authorization", f"Bearer\t{GOOD}"),), "CREDENTIAL_MALFORMED"),
    ("list of credentials", (("authorization", f"Bearer {GOOD}, Bearer x"),), "CREDENTIAL_MALFORMED"),
    ("authorization as bytes", (("authorization", b"Bearer x"),), "CREDENTIAL_MALFORMED"),
    ("empty authorization", (("authorization", ""),), "CREDENTIAL_MALFORMED"),
    ("unknown key", (("x-api-key", "hr_unknownk_" + "z" * 32),), "CREDENTIAL_UNKNOWN"),
    ("prefix of a key", (("x-api-key", GOOD[:-1]),), "CREDENTIAL_UNKNOWN"),
    ("key and one more", (("x-api-key", GOOD + "a"),), "CREDENTIAL_UNKNOWN"),
    ("key in another case", (("x-api-key", GOOD.upper()),), "CREDENTIAL_UNKNOWN"),
    ("digest for a key", (("x-api-key", hashlib.sha256(GOOD.encode()).hexdigest()),), "CREDENTIAL_UNKNOWN"),
    ("key id for a key", (("x-api-key", "id-goodgood"),), "CREDENTIAL_UNKNOWN"),
    ("scheme inside x-api-key", (("x-api-key", f"Bearer:{GOOD}"),), "CREDENTIAL_UNKNOWN"),
    ("community key where it is off", (("x-api-key", "community"),), "CREDENTIAL_UNKNOWN"),
    ("revoked key", (("x-api-key", REVOKED),), "KEY_REVOKED"),
    ("expired key", (("authorization", f"Bearer {EXPIRED}"),), "KEY_EXPIRED"),
    ("key of a suspended tenant", (("x-api-key", SUSPENDED),), "TENANT_SUSPENDED"),
    ("key of an unknown tenant", (("x-api-key", ORPHAN),), "TENANT_SUSPENDED"),
]


@pytest.mark.parametrize(("metadata", "reason"), [(pairs, reason) for _, pairs, reason in BAD], ids=[b[0] for b in BAD])
def test_bad_credential_is_refused_with_its_own_reason_and_never_repeated(metadata: Pairs, reason: str) -> None:
    error = refusal(metadata)
    assert error.reason == reason
    for _, value in metadata:
        shown = value if isinstance(value, str) else value.decode("latin-1")
        assert len(shown) < 8 or shown not in f"{error} {error.context}"


@pytest.mark.parametrize(
    "metadata",
    [
        (("x-api-key", GOOD),),
        (("authorization", f"Bearer {GOOD}"),),
        (("authorization", f"bearer {GOOD}"),),
        (("user-agent", "grpc"), ("x-headrace-principal", "forged"), ("x-api-key", GOOD)),
    ],
)
def test_good_key_gives_its_own_tenant_and_roles(metadata: Pairs) -> None:
    principal = identity().authenticate(metadata)
    assert (principal.tenant_id, principal.roles, principal.key_id) == ("acme", frozenset({"user"}), "id-goodgood")


def test_key_works_until_the_moment_it_expires() -> None:
    clock = FakeClock(start=START)
    who = identity(clock=clock)
    clock.advance(9.999)
    assert who.authenticate((("x-api-key", SHORT_LIVED),)).tenant_id == "acme"
    clock.advance(0.001)
    with pytest.raises(HeadraceError) as caught:
        who.authenticate((("x-api-key", SHORT_LIVED),))
    assert caught.value.reason == "KEY_EXPIRED"


def test_before_the_first_snapshot_a_key_is_unavailable_with_a_hint_and_no_key_is_missing() -> None:
    who = identity(table=PrincipalTable(), community=True)
    for key in (GOOD, "community"):
        with pytest.raises(HeadraceError) as caught:
            who.authenticate((("x-api-key", key),))
        assert (caught.value.reason, caught.value.entry.grpc) == ("CREDENTIALS_NOT_READY", "UNAVAILABLE")
        assert caught.value.retry_after_s is not None
    with pytest.raises(HeadraceError) as caught:
        who.authenticate(())
    assert caught.value.reason == "CREDENTIAL_MISSING"


def test_community_key_gives_the_community_tenant_without_admin() -> None:
    principal = identity(community=True).authenticate((("x-api-key", "community"),))
    assert principal.tenant_id == "community"
    assert principal.roles == {"viewer", "user", "model_admin"}


@pytest.mark.parametrize("name", [":authority", "host", "x-forwarded-host"])
@pytest.mark.parametrize("authority", ["localhost", "localhost:8081", "127.0.0.1:1", "[::1]:65535", "LOCALHOST"])
def test_community_key_is_accepted_under_loopback_names(name: str, authority: str) -> None:
    assert (
        identity(community=True).authenticate((("x-api-key", "community"), (name, authority))).tenant_id == "community"
    )


@pytest.mark.parametrize(
    "pair",
    [
        ("host", "evil.example"),
        ("host", "localhost.evil.example"),
        ("host", "127.0.0.1.evil.example:8081"),
        ("host", "127.0.0.2"),
        ("host", "0.0.0.0:8081"),
        ("host", "user@localhost"),
        ("host", ""),
        (":authority", "evil.example:8081"),
        ("x-forwarded-host", "mesh.example"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("referer", "http://evil.example/localhost"),
    ],
)
def test_community_key_is_refused_under_other_names(pair: tuple[str, str]) -> None:
    error = refusal((("x-api-key", "community"), pair), community=True)
    assert (error.reason, error.entry.grpc) == ("AUTHORITY_FORBIDDEN", "PERMISSION_DENIED")


def test_real_key_is_not_bound_to_loopback_names() -> None:
    assert identity(community=True).authenticate((("x-api-key", GOOD), ("host", "mesh.example"))).tenant_id == "acme"


def test_revocation_and_suspension_take_effect_with_the_change_that_tells_of_them() -> None:
    table = filled_table()
    who = identity(table=table)
    table.apply([], [record(GOOD, revoked=True)])
    with pytest.raises(HeadraceError) as caught:
        who.authenticate((("x-api-key", GOOD),))
    assert caught.value.reason == "KEY_REVOKED"
    table.apply([], [record(GOOD)])
    table.apply([TenantRecord(tenant_id="acme", status=tenants_pb2.TENANT_STATUS_SUSPENDED)], [])
    with pytest.raises(HeadraceError) as caught:
        who.authenticate((("x-api-key", GOOD),))
    assert caught.value.reason == "TENANT_SUSPENDED"


def test_snapshot_forgets_keys_that_it_does_not_name() -> None:
    table = filled_table()
    table.replace([TenantRecord(tenant_id="acme", status=tenants_pb2.TENANT_STATUS_ACTIVE)], [])
    with pytest.raises(HeadraceError) as caught:
        identity(table=table).authenticate((("x-api-key", GOOD),))
    assert caught.value.reason == "CREDENTIAL_UNKNOWN"


def test_tenant_that_a_call_names_may_be_its_own() -> None:
    metadata = (("x-tenant-id", "acme"), ("x-api-key", GOOD), ("x-tenant-id", "acme"))
    assert identity().authenticate(metadata).tenant_id == "acme"
