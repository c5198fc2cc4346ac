"""Signed tokens: what stands for whom, what is refused and why, and when it is looked at again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey

from headrace.quota.internal.v1.principals_pb2 import TenantRecord
from headrace.quota.v1 import tenants_pb2
from headrace_common.errors import HeadraceError
from headrace_common.testing import FakeClock
from headrace_gateway.features import Features
from headrace_gateway.identity import Identity
from headrace_gateway.oidc.issuer_keys import IssuerKeys
from headrace_gateway.oidc.token_rules import TokenRules
from headrace_gateway.oidc.tokens import Tokens
from headrace_gateway.policy import Access
from headrace_gateway.principal_table import PrincipalTable
from headrace_gateway.stream_access import StreamAccess
from support.issuer import AUDIENCE, ISSUER, Issuer, encoded, signed, with_public_key_as_secret

ISSUING = Issuer()
STRANGER = RSAKey.generate_key(2048, {"kid": "r"})
EVIL = STRANGER.as_dict(private=False)
SKEW_S = 30.0


def rules(**changed: Any) -> TokenRules:
    values: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "algorithms": frozenset({"RS256", "ES256", "Ed25519"}),
        "skew_s": SKEW_S,
        "tenant_claim": "tenant",
        "roles_claim": "roles",
        **changed,
    }
    return TokenRules(**values)


class Gate:
    """An identity that accepts tokens, over a table that knows two tenants."""

    def __init__(self, *, published: bytes | None = None, asks: bool = False, **changed: Any) -> None:
        self.clock = FakeClock()
        self.asked = 0
        self.asks = asks
        self.tokens = Tokens(rules=rules(**changed), clock=self.clock, ask_again=self._ask, kept_max=3)
        self.tokens.use(IssuerKeys.parsed(ISSUING.published() if published is None else published))
        self.table = PrincipalTable()
        active, suspended = tenants_pb2.TENANT_STATUS_ACTIVE, tenants_pb2.TENANT_STATUS_SUSPENDED
        records = [("acme", active), ("late-payer", suspended)]
        self.table.replace([TenantRecord(tenant_id=name, status=status) for name, status in records], [])
        self.identity = Identity(table=self.table, clock=self.clock, community=False, tokens=self.tokens)

    def _ask(self) -> bool:
        self.asked += 1
        return self.asks

    @property
    def now(self) -> float:
        return self.clock.now().timestamp()

    def token(self, **changed: Any) -> str:
        return ISSUING.token(ISSUING.claims(self.now, **changed))

    def refusal(self, token: str, *more: tuple[str, str]) -> HeadraceError:
        with pytest.raises(HeadraceError) as caught:
            self.identity.authenticate((("authorization", f"Bearer {token}"), *more))
        return caught.value

    def principal(self, token: str) -> Any:
        return self.identity.authenticate((("authorization", f"Bearer {token}"),))


@pytest.mark.parametrize(
    "header", [{}, {"alg": "ES256", "kid": "e"}, {"alg": "Ed25519", "kid": "d", "typ": "at+JWT"}, {"typ": None}]
)
def test_good_token_stands_for_its_subject(header: dict[str, Any]) -> None:
    gate = Gate()
    principal = gate.principal(ISSUING.token(ISSUING.claims(gate.now), **header))
    assert (principal.tenant_id, principal.subject, principal.key_id) == ("acme", "jwt:ada@example", "")
    assert principal.roles == frozenset({"user"})


@pytest.mark.parametrize(
    ("changed", "claims", "roles"),
    [
        ({}, {"roles": ["user", "admin", "owner"]}, {"user", "admin"}),
        ({}, {"roles": "viewer model_admin"}, {"viewer", "model_admin"}),
        ({}, {"roles": None}, set[str]()),
        ({}, {"roles": [1, "user"]}, set[str]()),
        ({}, {"roles": {"user": True}}, set[str]()),
        ({"roles_claim": "realm_access.roles"}, {"realm_access": {"roles": ["user"]}}, {"user"}),
        ({"roles_claim": "a.b"}, {"a.b": ["user"], "a": {"b": ["admin"]}}, {"user"}),
        ({"roles": {"ml-ops": "model_admin", "all": "viewer"}}, {"roles": ["ml-ops", "admin"]}, {"model_admin"}),
        ({"tenant_claim": "org.id"}, {"tenant": None, "org": {"id": "acme"}}, {"user"}),
        ({}, {"aud": ["other", AUDIENCE]}, {"user"}),
    ],
)
def test_roles_and_tenant_come_from_the_claims_that_are_named(
    changed: dict[str, Any], claims: dict[str, Any], roles: set[str]
) -> None:
    gate = Gate(**changed)
    principal = gate.principal(gate.token(**claims))
    assert (principal.tenant_id, principal.roles) == ("acme", frozenset(roles))


def claim(**changed: Any) -> Callable[[Gate], str]:
    return lambda gate: gate.token(**changed)


def at(reason: str, **after_s: float) -> tuple[str, Callable[[Gate], str], str]:
    name = " ".join(f"{claim} at {offset:+g} s" for claim, offset in after_s.items())
    return name, lambda gate: gate.token(**{name: gate.now + offset for name, offset in after_s.items()}), reason


def head(**header: Any) -> Callable[[Gate], str]:
    return lambda gate: ISSUING.token(ISSUING.claims(gate.now), **header)


def forged(header: dict[str, Any], key: Any, algorithm: str) -> Callable[[Gate], str]:
    return lambda gate: signed({"typ": "JWT", **header}, ISSUING.claims(gate.now), key, algorithm=algorithm)


def part(number: int, change: Callable[[str], str]) -> Callable[[Gate], str]:
    def changed(gate: Gate) -> str:
        parts = gate.token().split(".")
        parts[number] = change(parts[number])
        return ".".join(parts)

    return changed


def of_header(data: bytes) -> Callable[[str], str]:
    # Tokens are told from keys by how their header begins.
    return lambda _: encoded(data)


INVALID, EXPIRED, AUDIENCE_WRONG = "TOKEN_INVALID", "TOKEN_EXPIRED", "TOKEN_AUDIENCE_MISMATCH"
SECRET = OctKey.import_key("a secret of thirty-two characters")
BAD: list[tuple[str, Callable[[Gate], str], str]] = [
    ("no algorithm", part(0, of_header(b'{"typ":"JWT","kid":"r"}')), INVALID),
    ("algorithm none", part(0, of_header(b'{"alg":"none","kid":"r"}')), INVALID),
    ("algorithm None", part(0, of_header(b'{"alg":"None","kid":"r"}')), INVALID),
    ("none without a signature", lambda g: part(0, of_header(b'{"alg":"none"}'))(g).rpartition(".")[0] + ".", INVALID),
    ("algorithm null", part(0, of_header(b'{"alg":null,"kid":"r"}')), INVALID),
    ("algorithms as a list", part(0, of_header(b'{"alg":["RS256"],"kid":"r"}')), INVALID),
    ("HS256 with the public key", lambda g: with_public_key_as_secret(ISSUING, ISSUING.claims(g.now)), INVALID),
    ("HS256 with a secret", forged({"alg": "HS256", "kid": "r"}, SECRET, "HS256"), INVALID),
    ("algorithm that is not pinned", head(alg="RS512"), INVALID),
    ("PS256 that is not pinned", head(alg="PS256"), INVALID),
    ("algorithm of another key", forged({"alg": "ES256", "kid": "r"}, ISSUING.ec, "ES256"), INVALID),
    ("key of another algorithm", forged({"alg": "RS256", "kid": "e"}, ISSUING.rsa, "RS256"), INVALID),
    ("header that says another algorithm", forged({"alg": "ES256", "kid": "e"}, ISSUING.rsa, "RS256"), INVALID),
    ("stranger's key under a known id", forged({"alg": "RS256", "kid": "r"}, STRANGER, "RS256"), INVALID),
    (
        "stranger's key in the header",
        forged({"alg": "RS256", "jwk": STRANGER.as_dict(private=False)}, STRANGER, "RS256"),
        INVALID,
    ),
    (
        "stranger's key by its address",
        forged({"alg": "RS256", "jku": "https://evil.example/k"}, STRANGER, "RS256"),
        INVALID,
    ),
    ("unknown key id", head(kid="nobody"), INVALID),
    ("no key id among several keys", head(kid=None), INVALID),
    ("empty key id", head(kid=""), INVALID),
    ("key id that is a number", head(kid=1), INVALID),
    ("key id that is a path", head(kid="../../etc/passwd"), INVALID),
    ("key id that is SQL", head(kid="r' OR '1'='1"), INVALID),
    ("huge key id", head(kid="r" * 400), INVALID),
    ("header that demands something", head(crit=["exp"], exp=1), INVALID),
    ("header that demands nothing", head(crit=[]), INVALID),
    ("payload not encoded", head(crit=["b64"], b64=False), INVALID),
    ("kind of another token", head(typ="logout+jwt"), INVALID),
    ("kind that is a number", head(typ=7), INVALID),
    ("header that is a list", part(0, lambda _: "eyJ" + encoded(b"[]")), INVALID),
    ("header that is no JSON", part(0, lambda text: text[:-5]), INVALID),
    ("header that is deep", part(0, lambda _: encoded(b'{"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}")), INVALID),
    ("truncated signature", part(2, lambda text: text[:-8]), INVALID),
    ("no signature", part(2, lambda _: ""), INVALID),
    ("signature with another end", part(2, lambda text: text[:-6] + "AAAAAA"), INVALID),
    ("signature twice", part(2, lambda text: text + text), INVALID),
    ("changed payload", part(1, lambda _: encoded(b'{"tenant":"default"}')), INVALID),
    ("payload that is no JSON", lambda _: ISSUING.token(b"nothing"), INVALID),
    ("payload that is a list", lambda _: ISSUING.token([]), INVALID),
    ("payload that is empty JSON", lambda _: ISSUING.token({}), INVALID),
    ("other issuer", claim(iss="https://evil.example"), INVALID),
    ("issuer with a slash more", claim(iss=ISSUER + "/"), INVALID),
    ("issuer in capitals", claim(iss=ISSUER.upper()), INVALID),
    ("issuers as a list", claim(iss=[ISSUER]), INVALID),
    ("no issuer", claim(iss=None), INVALID),
    ("other audience", claim(aud="another"), AUDIENCE_WRONG),
    ("no audience", claim(aud=None), AUDIENCE_WRONG),
    ("empty audience", claim(aud=[]), AUDIENCE_WRONG),
    ("audience within another", claim(aud=f"{AUDIENCE}-admin"), AUDIENCE_WRONG),
    ("audience as a map", claim(aud={AUDIENCE: True}), AUDIENCE_WRONG),
    ("audience among what is no text", claim(aud=[AUDIENCE, 7]), AUDIENCE_WRONG),
    ("no end", claim(exp=None), INVALID),
    ("end as a text", claim(exp="9999999999"), INVALID),
    ("end that is true", claim(exp=True), INVALID),
    ("end that is enormous", claim(exp=1e300), INVALID),
    (
        "end that is no number",
        lambda g: ISSUING.token(json.dumps(ISSUING.claims(g.now, exp=float("nan"))).encode()),
        INVALID,
    ),
    at(EXPIRED, exp=-SKEW_S - 1),
    at(EXPIRED, exp=-SKEW_S),
    at(INVALID, nbf=SKEW_S + 1),
    at(INVALID, iat=SKEW_S + 1),
    ("beginning as a text", claim(nbf="0"), INVALID),
    ("null for a beginning", lambda g: ISSUING.token({**ISSUING.claims(g.now), "nbf": None}), INVALID),
    ("no subject", claim(sub=None), INVALID),
    ("empty subject", claim(sub=""), INVALID),
    ("subject that is a number", claim(sub=7), INVALID),
    ("subject with a line break", claim(sub="a\nb"), INVALID),
    ("huge subject", claim(sub="a" * 257), INVALID),
    ("no tenant", claim(tenant=None), INVALID),
    ("empty tenant", claim(tenant=""), INVALID),
    ("tenant in capitals", claim(tenant="ACME"), INVALID),
    ("several tenants", claim(tenant=["acme"]), INVALID),
    ("tenant with a blank", claim(tenant="acme "), INVALID),
    ("absent tenant", claim(tenant="nobody-knows"), "TENANT_SUSPENDED"),
    ("suspended tenant", claim(tenant="late-payer"), "TENANT_SUSPENDED"),
    ("text around it", lambda g: g.token() + "x.y", "CREDENTIAL_MALFORMED"),
    ("five parts", lambda g: g.token() + ".a.b", "CREDENTIAL_MALFORMED"),
    ("two parts", lambda g: g.token().rpartition(".")[0], "CREDENTIAL_MALFORMED"),
    ("padding", lambda g: g.token() + "==", "CREDENTIAL_MALFORMED"),
    ("base64 of the other kind", lambda g: g.token() + "+/", "CREDENTIAL_MALFORMED"),
    ("blank inside", lambda g: g.token().replace(".", ". "), "CREDENTIAL_MALFORMED"),
    ("huge token", claim(more="a" * 9_000), "CREDENTIAL_MALFORMED"),
    ("large payload", part(1, lambda _: encoded(b" " * 5_400)), INVALID),
]


@pytest.mark.parametrize(("make", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_token_is_refused(make: Callable[[Gate], str], reason: str) -> None:
    assert len(BAD) >= 60
    gate = Gate()
    token = make(gate)
    failure = gate.refusal(token)
    assert failure.reason == reason
    assert failure.entry.grpc == ("PERMISSION_DENIED" if reason == "TENANT_SUSPENDED" else "UNAUTHENTICATED")
    assert token[-20:] not in str(failure)
    # And no worse the second time, and nothing of it is kept.
    assert gate.refusal(token).reason == reason
    assert gate.principal(gate.token()).tenant_id == "acme"


@pytest.mark.parametrize(
    "metadata",
    [
        (("x-api-key", "{token}"),),
        (("authorization", "Bearer {token}"), ("authorization", "Bearer {token}")),
        (("authorization", "Bearer {token}"), ("x-api-key", "hr_key")),
        (("authorization", "{token}"),),
        (("authorization", "Bearer {token}, Bearer {token}"),),
        (("authorization", "DPoP {token}"),),
    ],
    ids=["as a key", "twice", "beside a key", "without a scheme", "as a list", "by another scheme"],
)
def test_token_comes_once_and_as_a_bearer(metadata: tuple[tuple[str, str], ...]) -> None:
    gate = Gate()
    token = gate.token()
    with pytest.raises(HeadraceError) as caught:
        gate.identity.authenticate([(name, value.format(token=token)) for name, value in metadata])
    assert caught.value.reason == "CREDENTIAL_MALFORMED"


def test_tenant_that_a_call_names_must_be_the_tokens() -> None:
    gate = Gate()
    assert gate.refusal(gate.token(), ("x-tenant-id", "late-payer")).reason == "TENANT_MISMATCH"


def test_without_an_issuer_a_token_is_nothing() -> None:
    gate = Gate()
    plain = Identity(table=gate.table, clock=gate.clock, community=False)
    with pytest.raises(HeadraceError) as caught:
        plain.authenticate((("authorization", f"Bearer {gate.token()}"),))
    assert caught.value.reason == "CREDENTIAL_MALFORMED"


def test_token_that_is_known_ends_in_time() -> None:
    gate = Gate()
    token = gate.token()
    assert gate.principal(token) is gate.principal(token)
    gate.clock.advance(300 + SKEW_S - 0.5)
    gate.principal(token)
    gate.clock.advance(1)
    assert gate.refusal(token).reason == EXPIRED
    assert gate.refusal(token).reason == EXPIRED


def test_token_ends_with_the_key_that_signed_it() -> None:
    gate = Gate()
    token = gate.token()
    gate.principal(token)
    gate.tokens.use(IssuerKeys.parsed(json.dumps({"keys": [ISSUING.ec.as_dict(private=False)]}).encode()))
    assert gate.refusal(token).reason == INVALID
    gate.tokens.use(IssuerKeys.parsed(ISSUING.published()))
    gate.principal(token)


def test_what_is_known_of_tokens_is_bounded() -> None:
    gate = Gate()
    tokens = [gate.token(sub=str(number)) for number in range(20)]
    assert {gate.principal(token).subject for token in tokens * 2} == {f"jwt:{number}" for number in range(20)}


def test_unknown_key_has_the_issuer_asked_and_the_caller_come_again() -> None:
    gate = Gate(asks=True)
    token = ISSUING.token(ISSUING.claims(gate.now), kid="new")
    failure = gate.refusal(token)
    assert (failure.reason, failure.entry.grpc, gate.asked) == ("CREDENTIALS_NOT_READY", "UNAVAILABLE", 1)
    renewed = {**ISSUING.rsa.as_dict(private=False), "kid": "new"}
    gate.tokens.use(IssuerKeys.parsed(ISSUING.published(renewed)))
    assert gate.principal(token).tenant_id == "acme"
    gate.refusal(forged({"alg": "RS512", "kid": "newer"}, ISSUING.rsa, "RS512")(gate))
    assert gate.asked == 1


def test_nothing_is_known_before_the_first_reading() -> None:
    gate = Gate()
    tokens = Tokens(rules=rules(), clock=gate.clock)
    with pytest.raises(HeadraceError) as caught:
        tokens.principal(gate.token())
    assert (caught.value.reason, caught.value.entry.grpc) == ("CREDENTIALS_NOT_READY", "UNAVAILABLE")


def test_single_key_without_an_id_checks_tokens_without_one() -> None:
    key = {name: value for name, value in ISSUING.rsa.as_dict(private=False).items() if name != "kid"}
    gate = Gate(published=json.dumps({"keys": [key]}).encode())
    assert gate.principal(ISSUING.token(ISSUING.claims(gate.now), kid=None)).tenant_id == "acme"


def test_only_public_keys_for_signatures_are_taken() -> None:
    modulus = encoded((2**1023 + 1).to_bytes(128))
    weak = {"kty": "RSA", "kid": "weak", "n": modulus, "e": "AQAB"}
    entries: list[Any] = [
        OctKey.import_key("x" * 40, {"kid": "secret"}).as_dict(private=True),
        {**ISSUING.rsa.as_dict(private=False), "kid": "enc", "use": "enc"},
        {**ISSUING.rsa.as_dict(private=False), "kid": "wrap", "key_ops": ["wrapKey"]},
        {**ISSUING.ec.as_dict(private=False), "kid": "broken", "x": "AA"},
        {"kty": "quantum", "kid": "future"},
        weak,
        7,
    ]
    keys = IssuerKeys.parsed(ISSUING.published(*entries))
    assert len(keys) == 3
    assert [kid for kid in ("secret", "enc", "wrap", "broken", "future", "weak") if kid in keys] == []
    assert keys.find("r", "ES256") is None
    assert keys.find("e", "ES384") is None
    assert keys.find("d", "RS256") is None


NO_KEY_SETS = {
    "empty": b"",
    "list": b"[]",
    "no keys": b"{}",
    "map": b'{"keys": {}}',
    "none": b'{"keys": []}',
    "no key": b'{"keys": [7]}',
    "huge": b" " * (1 << 21),
    "many": b'{"keys":[0' + b",0" * 101 + b"]}",
    "not UTF-8": b'{"keys": ["\xff"]}',
}


@pytest.mark.parametrize("document", NO_KEY_SETS.values(), ids=NO_KEY_SETS)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"it (is|has)|Expecting|decode"):
        IssuerKeys.parsed(document)


async def test_stream_ends_with_the_token_that_opened_it() -> None:
    gate = Gate()
    token = gate.token()
    access = StreamAccess(identity=gate.identity, features=Features(table=gate.table), demand=Access.USER)
    principal = gate.principal(token)
    gate.clock.advance(timedelta(seconds=300 + SKEW_S).total_seconds())
    with pytest.raises(HeadraceError) as caught:
        await access.watch((("authorization", f"Bearer {token}"),), principal)
    assert caught.value.reason == EXPIRED


def test_curves_must_be_those_of_the_algorithm() -> None:
    other = ECKey.generate_key("P-384", {"kid": "e"})
    gate = Gate(published=json.dumps({"keys": [other.as_dict(private=False)]}).encode())
    assert gate.refusal(forged({"alg": "ES256", "kid": "e"}, ISSUING.ec, "ES256")(gate)).reason == INVALID
