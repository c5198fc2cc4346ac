"""Who a call is made for, and the short-lived signed tokens that carry this between services."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from headrace_common import catalogue
from headrace_common.clock import Clock, SystemClock
from headrace_common.errors import AuthError, ConfigError
from headrace_common.secrets import read_secret, write_secret_file

PRINCIPAL_KEY = "x-headrace-principal"
"""Metadata key of the token; stripped from whatever comes in at the edge."""
TICKET_KEY = "x-headrace-ticket"

ROLES = ("viewer", "user", "model_admin", "admin")
"""From least to most; each includes the ones before it."""
SERVICE_ROLE = "service"

_ALGORITHMS = ["Ed25519"]
_TTL_S_MAX = 600
_LEEWAY_S = 5
_TOKEN_CHARS_MAX = 4_096
_RANKS = {role: rank for rank, role in enumerate(ROLES)}

TokenKind = Literal["principal", "service", "ticket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """Leave to do something with some models.

    Attributes:
        actions: Out of `infer`, `read` and `write`; each includes reading.
        models: Names of models.
        prefixes: What further names begin with; an empty one stands for all models.
    """

    actions: frozenset[str]
    models: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def is_about(self, model: str) -> bool:
        """Whether it says anything of a model."""
        return model in self.models or model.startswith(self.prefixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The identity of a call.

    Attributes:
        tenant_id: The tenant that every row and charge belongs to; empty for a service.
        roles: Names out of `ROLES`, or `service` alone.
        key_id: The API key's public id; empty for a service.
        subject: Who signed in, for audit: `key:<id>`, `jwt:<subject>` or `service:<name>`.
        policies: If there are any, nothing may be done with models but what one of them allows. Gateways see to that;
            tokens don't carry them.
    """

    tenant_id: str
    roles: frozenset[str]
    key_id: str = ""
    subject: str = ""
    policies: tuple[ModelPolicy, ...] = ()

    def allows(self, role: str) -> bool:
        """Whether one of the roles is `role` or includes it. `service` is included by no other role."""
        if role == SERVICE_ROLE or SERVICE_ROLE in self.roles:
            return role in self.roles
        needed = _RANKS.get(role)
        return needed is not None and any(_RANKS.get(own, -1) >= needed for own in self.roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Leave to download the artefacts of one version, for one tenant, for a short time."""

    tenant_id: str
    version_id: str
    digests: frozenset[str]


class PrincipalSigner:
    """Signs with a gateway's private key. Cheap: about 60 µs a token; holds no state besides the key."""

    def __init__(self, *, key: OKPKey, issuer: str, clock: Clock | None = None) -> None:
        self._key = key
        self._issuer = issuer
        self._clock = clock or SystemClock()

    @classmethod
    def from_file(cls, path: Path | str, *, issuer: str, clock: Clock | None = None) -> PrincipalSigner:
        """Reads a private JWK from a path or another reference of `secrets.read_secret`.

        Raises:
            ConfigError: SETTING_INVALID or SECRET_UNAVAILABLE: no such file, or not an Ed25519 private key.
        """
        text = read_secret(path)
        try:
            key = OKPKey.import_key(cast("Any", _json_object(text)))
        except (JoseError, ValueError, KeyError, TypeError):
            raise _bad_key("HEADRACE_PRINCIPAL_KEY_FILE", "is not a private Ed25519 JWK") from None
        if not key.is_private or not key.kid:
            raise _bad_key("HEADRACE_PRINCIPAL_KEY_FILE", "is not a private Ed25519 JWK with a kid")
        return cls(key=key, issuer=issuer, clock=clock)

    def sign(self, principal: Principal, *, audience: str, ttl_s: float = 60.0) -> str:
        """A token that only `audience` accepts."""
        claims = {
            "sub": principal.subject or f"key:{principal.key_id}",
            "tenant": principal.tenant_id,
            "roles": sorted(principal.roles),
            "key": principal.key_id,
        }
        return self._signed("principal", claims, audience, ttl_s)

    def sign_service(self, *, audience: str, ttl_s: float = 60.0) -> str:
        """A token for a call that the gateway makes on its own behalf, such as opening a feed."""
        return self._signed("service", {"sub": f"service:{self._issuer}"}, audience, ttl_s)

    def sign_ticket(
        self, *, tenant_id: str, version_id: str, digests: Iterable[str], audience: str, ttl_s: float = 120.0
    ) -> str:
        """A download ticket for a runner: one version's artefacts and nothing else."""
        claims = {"sub": "ticket", "tenant": tenant_id, "version": version_id, "digests": sorted(digests)}
        return self._signed("ticket", claims, audience, ttl_s)

    def _signed(self, kind: TokenKind, claims: Mapping[str, Any], audience: str, ttl_s: float) -> str:
        if not 0 < ttl_s <= _TTL_S_MAX:
            raise ValueError(f"a token lives at most {_TTL_S_MAX} s")
        now = self._clock.now().timestamp()
        body = {
            **claims,
            "iss": self._issuer,
            "aud": audience,
            "kind": kind,
            "iat": int(now),
            "exp": int(now + ttl_s),
            "jti": uuid.uuid4().hex,
        }
        header = {"alg": _ALGORITHMS[0], "kid": self._key.kid}
        return jwt.encode(header, body, self._key, algorithms=_ALGORITHMS)


class PrincipalVerifier:
    """Checks tokens against a published key set, re-read when its file changes: that is how keys rotate.

    A file that is unreadable or broken after a change keeps the keys that are known; the next good one replaces them.
    """

    def __init__(self, *, jwks_path: Path, audience: str, clock: Clock | None = None) -> None:
        """Raises ConfigError where there is no readable key set at `jwks_path`."""
        self._path = jwks_path
        self._audience = audience
        self._clock = clock or SystemClock()
        self._stamp: tuple[int, int, int] | None = None
        self._checked_at_s = self._clock.monotonic()
        self._log = structlog.stdlib.get_logger("principal")
        self._keys = self._read()

    def verify(self, token: str | bytes | None) -> Principal:
        """The tenant's principal in a token.

        Raises:
            AuthError: CREDENTIAL_MISSING, TOKEN_INVALID, TOKEN_EXPIRED or TOKEN_AUDIENCE_MISMATCH (UNAUTHENTICATED).
        """
        claims = self._claims(token, "principal")
        roles = frozenset(_texts(claims.get("roles")))
        tenant_id, key_id = claims.get("tenant"), claims.get("key")
        if not isinstance(tenant_id, str) or not tenant_id or not isinstance(key_id, str) or not roles <= set(ROLES):
            raise _invalid()
        return Principal(tenant_id=tenant_id, roles=roles, key_id=key_id, subject=str(claims.get("sub", "")))

    def verify_service(self, token: str | bytes | None) -> Principal:
        """The service that makes the call itself, as a principal with the role `service`. Raises like `verify`."""
        claims = self._claims(token, "service")
        return Principal(tenant_id="", roles=frozenset({SERVICE_ROLE}), subject=str(claims.get("sub", "")))

    def verify_any(self, token: str | bytes | None) -> Principal:
        """A tenant's principal or a service's, for listeners that serve both. Raises like `verify`."""
        return self.verify_service(token) if self._claims(token, None).get("kind") == "service" else self.verify(token)

    def verify_ticket(self, token: str | bytes | None) -> Ticket:
        """The download leave in a ticket.

        Raises:
            AuthError: TICKET_INVALID (UNAUTHENTICATED), whatever is wrong with it.
        """
        try:
            claims = self._claims(token, "ticket")
        except AuthError:
            raise _bad_ticket() from None
        tenant_id, version_id = claims.get("tenant"), claims.get("version")
        if not isinstance(tenant_id, str) or not isinstance(version_id, str) or not tenant_id or not version_id:
            raise _bad_ticket()
        return Ticket(tenant_id=tenant_id, version_id=version_id, digests=frozenset(_texts(claims.get("digests"))))

    def _claims(self, token: str | bytes | None, kind: TokenKind | None) -> Mapping[str, Any]:
        if not token:
            raise AuthError("the call carries no principal token", entry=catalogue.CREDENTIAL_MISSING)
        if len(token) > _TOKEN_CHARS_MAX:
            raise _invalid()
        self._refresh()
        try:
            claims = jwt.decode(token, self._keys, algorithms=_ALGORITHMS).claims
        except (JoseError, ValueError, TypeError, KeyError):
            raise _invalid() from None
        if kind is not None and claims.get("kind") != kind:
            raise _invalid()
        if claims.get("aud") != self._audience:
            raise AuthError("the token was made for another service", entry=catalogue.TOKEN_AUDIENCE_MISMATCH)
        issued, expires = claims.get("iat"), claims.get("exp")
        if not isinstance(issued, int) or not isinstance(expires, int) or not 0 < expires - issued <= _TTL_S_MAX:
            raise _invalid()
        now = self._clock.now().timestamp()
        if issued > now + _LEEWAY_S:
            raise _invalid()
        if expires <= now - _LEEWAY_S:
            raise AuthError("the token has expired", entry=catalogue.TOKEN_EXPIRED)
        return claims

    def _refresh(self) -> None:
        """At most once a second, so that a flood of bad tokens costs no flood of file reads."""
        now_s = self._clock.monotonic()
        if now_s - self._checked_at_s < 1.0:
            return
        self._checked_at_s = now_s
        try:
            if _stamp(self._path) != self._stamp:
                self._keys = self._read()
                self._log.info("principal key set read again", keys=len(self._keys.keys))
        except (ConfigError, OSError):
            self._log.warning("principal key set can't be read; the known keys stay", path=str(self._path))

    def _read(self) -> KeySet:
        try:
            stamp = _stamp(self._path)
            document = _json_object(self._path.read_text())
            keys = KeySet.import_key_set(cast("Any", document))
        except (OSError, JoseError, ValueError, KeyError, TypeError, AttributeError):
            raise _bad_key("HEADRACE_PRINCIPAL_JWKS_FILE", "is not a readable JWK set") from None
        if not keys.keys or any(not isinstance(key, OKPKey) or not key.kid for key in keys.keys):
            raise _bad_key("HEADRACE_PRINCIPAL_JWKS_FILE", "must hold Ed25519 keys, each with a kid")
        self._stamp = stamp
        return keys


def generate_key_files(private_path: Path, jwks_path: Path, *, keep: int = 2) -> None:
    """Makes a new signing key (0600) and publishes it first in the set, before the newest `keep - 1` older ones.

    Called again it rotates: tokens of the key before stay valid as long as it is in the set. The set is written first,
    so that no verifier meets a token of a key that it can't find.
    """
    key = OKPKey.generate_key("Ed25519", {"kid": uuid.uuid4().hex, "use": "sig", "alg": "Ed25519"}, private=True)
    older: list[Any] = []
    if jwks_path.is_file():
        older = list(cast("Any", _json_object(jwks_path.read_text())).get("keys", []))[: keep - 1]
    published = {"keys": [key.as_dict(private=False), *older]}
    jwks_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = jwks_path.with_name(f".{jwks_path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(published))
    temporary.replace(jwks_path)
    write_secret_file(private_path, json.dumps(key.as_dict(private=True)))


def _json_object(text: str) -> dict[str, Any]:
    document: object = json.loads(text)
    if not isinstance(document, dict):
        raise TypeError("not a JSON object")
    return cast("dict[str, Any]", document)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in cast("list[object]", value)):
        raise _invalid()
    return cast("list[str]", value)


def _invalid() -> AuthError:
    return AuthError("the token is not valid", entry=catalogue.TOKEN_INVALID)


def _bad_ticket() -> AuthError:
    return AuthError("the download ticket is not valid", entry=catalogue.TICKET_INVALID)


def _bad_key(variable: str, why: str) -> ConfigError:
    return ConfigError(f"{variable} {why}", context={"variable": variable})
