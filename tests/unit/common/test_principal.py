"""Tokens: what is accepted, and everything that isn't."""

from __future__ import annotations

import base64
import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry
from headrace_common.errors import AuthError, ConfigError
from headrace_common.principal import (
    ROLES,
    Principal,
    PrincipalSigner,
    PrincipalVerifier,
    generate_key_files,
)
from headrace_common.testing import FakeClock

AUDIENCE = "headrace-quota"
SYMMETRIC = json.dumps({"keys": [{"kty": "oct", "k": "A" * 43, "kid": "x"}]})
ALICE = Principal(tenant_id="acme", roles=frozenset({"user", "model_admin"}), key_id="k1", subject="key:k1")


class Keys:
    """A gateway's key pair on disk and both ends of it."""

    def __init__(self, directory: Path) -> None:
        self.private = directory / "secrets" / "principal.jwk"
        self.jwks = directory / "principal.jwks"
        self.clock = FakeClock()
        generate_key_files(self.private, self.jwks)
        self.signer = self.new_signer()
        self.verifier = self.new_verifier()

    def new_signer(self) -> PrincipalSigner:
        return PrincipalSigner.from_file(self.private, issuer="gateway-0", clock=self.clock)

    def new_verifier(self, audience: str = AUDIENCE) -> PrincipalVerifier:
        return PrincipalVerifier(jwks_path=self.jwks, audience=audience, clock=self.clock)

    def claims(self, **changes: object) -> dict[str, object]:
        now = int(self.clock.now().timestamp())
        return {
            "sub": "key:k1",
            "tenant": "acme",
            "roles": ["user"],
            "key": "k1",
            "iss": "gateway-0",
            "aud": AUDIENCE,
            "kind": "principal",
            "iat": now,
            "exp": now + 60,
            "jti": "1",
            **changes,
        }

    def forge(self, **changes: object) -> str:
        key = OKPKey.import_key(json.loads(self.private.read_text()))
        return jwt.encode({"alg": "Ed25519", "kid": key.kid}, self.claims(**changes), key, algorithms=["Ed25519"])


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def refused(keys: Keys, token: str | bytes | None) -> CatalogueEntry:
    with pytest.raises(AuthError) as caught:
        keys.verifier.verify(token)
    return caught.value.entry


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_principal_comes_back_as_it_was(keys: Keys) -> None:
    assert keys.verifier.verify(keys.signer.sign(ALICE, audience=AUDIENCE)) == ALICE


def test_a_service_is_no_tenant_and_a_tenant_no_service(keys: Keys) -> None:
    service = keys.signer.sign_service(audience=AUDIENCE)
    principal = keys.verifier.verify_service(service)
    assert principal.tenant_id == ""
    assert principal.subject == "service:gateway-0"
    assert refused(keys, service) is catalogue.TOKEN_INVALID
    tenant = keys.signer.sign(ALICE, audience=AUDIENCE)
    with pytest.raises(AuthError):
        keys.verifier.verify_service(tenant)
    assert keys.verifier.verify_any(tenant) == ALICE
    assert keys.verifier.verify_any(service) == principal


def test_a_ticket_names_one_version_and_is_nothing_else(keys: Keys) -> None:
    ticket = keys.signer.sign_ticket(tenant_id="acme", version_id="v1", digests=["d2", "d1"], audience=AUDIENCE)
    leave = keys.verifier.verify_ticket(ticket)
    assert (leave.tenant_id, leave.version_id, leave.digests) == ("acme", "v1", frozenset({"d1", "d2"}))
    assert refused(keys, ticket) is catalogue.TOKEN_INVALID
    for wrong in (None, "", "x", keys.signer.sign(ALICE, audience=AUDIENCE)):
        with pytest.raises(AuthError) as caught:
            keys.verifier.verify_ticket(wrong)
        assert caught.value.entry is catalogue.TICKET_INVALID
    keys.clock.advance(200)
    with pytest.raises(AuthError) as caught:
        keys.verifier.verify_ticket(ticket)
    assert caught.value.entry is catalogue.TICKET_INVALID


def test_another_services_token_is_refused(keys: Keys) -> None:
    token = keys.signer.sign(ALICE, audience="headrace-registry")
    assert refused(keys, token) is catalogue.TOKEN_AUDIENCE_MISMATCH


def test_a_token_expires(keys: Keys) -> None:
    token = keys.signer.sign(ALICE, audience=AUDIENCE, ttl_s=60)
    keys.clock.advance(59)
    assert keys.verifier.verify(token) == ALICE
    keys.clock.advance(10)
    assert refused(keys, token) is catalogue.TOKEN_EXPIRED


def test_no_token_is_a_missing_credential(keys: Keys) -> None:
    assert refused(keys, None) is catalogue.CREDENTIAL_MISSING
    assert refused(keys, "") is catalogue.CREDENTIAL_MISSING


def test_an_unsigned_token_is_refused(keys: Keys) -> None:
    for algorithm in ("none", "None", "NONE", ""):
        token = f"{encoded({'alg': algorithm, 'typ': 'JWT'})}.{encoded(keys.claims())}."
        assert refused(keys, token) is catalogue.TOKEN_INVALID


def test_a_token_keyed_with_the_public_key_is_refused(keys: Keys) -> None:
    published = json.loads(keys.jwks.read_text())["keys"][0]
    secret = OctKey.import_key(base64.urlsafe_b64decode(published["x"] + "="))
    token = jwt.encode({"alg": "HS256", "kid": published["kid"]}, keys.claims(), secret, algorithms=["HS256"])
    assert refused(keys, token) is catalogue.TOKEN_INVALID


def test_a_foreign_key_is_refused_even_under_a_known_id(keys: Keys, tmp_path: Path) -> None:
    kid = json.loads(keys.jwks.read_text())["keys"][0]["kid"]
    foreign = OKPKey.generate_key("Ed25519", {"kid": kid}, private=True)
    token = jwt.encode({"alg": "Ed25519", "kid": kid}, keys.claims(), foreign, algorithms=["Ed25519"])
    assert refused(keys, token) is catalogue.TOKEN_INVALID
    token = jwt.encode({"alg": "Ed25519", "kid": "else"}, keys.claims(), foreign, algorithms=["Ed25519"])
    assert refused(keys, token) is catalogue.TOKEN_INVALID
    token = jwt.encode(
        {"alg": "Ed25519", "jwk": foreign.as_dict(private=False)}, keys.claims(), foreign, algorithms=["Ed25519"]
    )
    assert refused(keys, token) is catalogue.TOKEN_INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": ""},
        {"tenant": 7},
        {"tenant": None},
        {"roles": ["root"]},
        {"roles": ["service"]},
        {"roles": "admin"},
        {"roles": None},
        {"key": 7},
        {"kind": "ticket"},
        {"kind": None},
        {"exp": None},
        {"iat": None},
        {"exp": "tomorrow"},
        {"exp": 1 << 62},
        {"iat": 1 << 40, "exp": (1 << 40) + 60},
    ],
)
def test_a_signed_token_with_wrong_claims_is_refused(keys: Keys, changes: dict[str, object]) -> None:
    assert keys.verifier.verify(keys.forge()).tenant_id == "acme"
    assert refused(keys, keys.forge(**changes)) is catalogue.TOKEN_INVALID


def test_a_list_of_audiences_is_not_ours(keys: Keys) -> None:
    assert refused(keys, keys.forge(aud=[AUDIENCE, "other"])) is catalogue.TOKEN_AUDIENCE_MISMATCH


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damaged_token_is_accepted(keys: Keys, data: st.DataObject) -> None:
    token = keys.signer.sign(ALICE, audience=AUDIENCE)
    cut = data.draw(st.integers(0, len(token) - 1))
    damaged = data.draw(
        st.sampled_from([token[:cut], token[:cut] + "A" + token[cut:], token[:cut] + "." + token[cut + 1 :]])
    )
    assume(damaged != token)
    assert refused(keys, damaged) in (catalogue.TOKEN_INVALID, catalogue.CREDENTIAL_MISSING)


@given(garbage=st.one_of(st.text(max_size=100), st.binary(max_size=100)))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused(keys: Keys, garbage: str | bytes) -> None:
    assert refused(keys, garbage) in (catalogue.TOKEN_INVALID, catalogue.CREDENTIAL_MISSING)


def test_an_overlong_token_is_refused_unread(keys: Keys) -> None:
    assert refused(keys, "a" * 100_000) is catalogue.TOKEN_INVALID


def test_rotation_accepts_new_tokens_and_those_of_the_key_before(keys: Keys) -> None:
    before = keys.signer.sign(ALICE, audience=AUDIENCE, ttl_s=600)
    generate_key_files(keys.private, keys.jwks)
    after = keys.new_signer().sign(ALICE, audience=AUDIENCE)
    assert refused(keys, after) is catalogue.TOKEN_INVALID  # not looked at again within a second
    keys.clock.advance(1.5)
    assert keys.verifier.verify(after) == ALICE
    assert keys.verifier.verify(before) == ALICE
    generate_key_files(keys.private, keys.jwks)
    keys.clock.advance(1.5)
    assert refused(keys, before) is catalogue.TOKEN_INVALID
    assert keys.verifier.verify(after) == ALICE


def test_a_broken_key_set_keeps_the_known_keys_until_the_next_good_one(keys: Keys) -> None:
    token = keys.signer.sign(ALICE, audience=AUDIENCE, ttl_s=600)
    good = keys.jwks.read_text()
    for broken in ("", "{", "[]", '{"keys": []}', SYMMETRIC):
        keys.jwks.write_text(broken)
        keys.clock.advance(1.5)
        assert keys.verifier.verify(token) == ALICE
    keys.jwks.unlink()
    keys.clock.advance(1.5)
    assert keys.verifier.verify(token) == ALICE
    keys.jwks.write_text(good)
    keys.clock.advance(1.5)
    assert keys.verifier.verify(token) == ALICE


def test_key_files_keep_the_private_part_private(keys: Keys) -> None:
    assert stat.S_IMODE(keys.private.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.private.parent.stat().st_mode) == 0o700
    assert all("d" not in key for key in json.loads(keys.jwks.read_text())["keys"])


@pytest.mark.parametrize("content", ["", "{}", "nonsense", "[]", '{"kty": "OKP", "crv": "Ed25519", "x": "AA"}'])
def test_a_wrong_private_key_file_names_its_variable(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(ConfigError):
        PrincipalSigner.from_file(path, issuer="g")


def test_a_public_key_cannot_sign(keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "public.jwk"
    path.write_text(json.dumps(json.loads(keys.jwks.read_text())["keys"][0]))
    with pytest.raises(ConfigError, match="HEADRACE_PRINCIPAL_KEY_FILE"):
        PrincipalSigner.from_file(path, issuer="g")


def test_a_missing_key_set_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HEADRACE_PRINCIPAL_JWKS_FILE"):
        PrincipalVerifier(jwks_path=tmp_path / "none", audience=AUDIENCE)


def test_a_lifetime_is_bounded_where_it_is_made(keys: Keys) -> None:
    with pytest.raises(ValueError, match="600"):
        keys.signer.sign(ALICE, audience=AUDIENCE, ttl_s=timedelta(days=1).total_seconds())


@pytest.mark.parametrize("own", ROLES)
@pytest.mark.parametrize("needed", ROLES)
def test_each_role_includes_the_lesser_ones(own: str, needed: str) -> None:
    principal = Principal(tenant_id="a", roles=frozenset({own}))
    assert principal.allows(needed) is (ROLES.index(own) >= ROLES.index(needed))


def test_the_service_role_stands_apart() -> None:
    service = Principal(tenant_id="", roles=frozenset({"service"}))
    assert service.allows("service")
    assert not service.allows("viewer")
    assert not Principal(tenant_id="a", roles=frozenset({"admin"})).allows("service")
    assert not Principal(tenant_id="a", roles=frozenset({"admin"})).allows("unheard-of")
