"""What a token must say, and whom it then stands for. Pure: the signature is checked elsewhere, the clock is given."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from headrace_common.catalogue import TOKEN_AUDIENCE_MISMATCH, TOKEN_EXPIRED, TOKEN_INVALID
from headrace_common.errors import AuthError
from headrace_common.principal import ROLES, Principal

_SUBJECT_CHARS_MAX = 256
_NAMES_MAX = 256
_TENANT_ID = re.compile(r"[a-z][a-z0-9-]{1,62}")
_TYPES = frozenset(("jwt", "at+jwt", "application/jwt", "application/at+jwt"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a gateway demands of tokens.

    Attributes:
        issuer: The issuer, to the letter.
        audience: Ours; a token may have others beside.
        algorithms: Those that are accepted, whatever a token's header says.
        skew_s: How far clocks may be apart.
        tenant_claim: Which claim names the tenant; with dots for one inside of others.
        roles_claim: Likewise for the roles: a list, or a text with blanks between.
        roles: What the claim's words mean; empty where it has our own.
    """

    issuer: str
    audience: str
    algorithms: frozenset[str]
    skew_s: float
    tenant_claim: str
    roles_claim: str
    roles: Mapping[str, str] = field(default_factory=dict[str, str])

    def key_of(self, header: Mapping[str, Any]) -> tuple[str | None, str]:
        """The key's id, None where the header names none, and the algorithm.

        Raises:
            AuthError: TOKEN_INVALID (UNAUTHENTICATED).
        """
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self.algorithms:
            invalid("is not signed by an algorithm that this gateway accepts")
        if kid is not None and not isinstance(kid, str):
            invalid("has no key id that could be one")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            invalid("is no access token")
        if "crit" in header:
            invalid("demands what this gateway doesn't know")
        return kid, algorithm

    def read(self, claims: Mapping[str, Any], now: float) -> tuple[Principal, float]:
        """Whom a token stands for, and the Unix time from which it doesn't any more.

        Raises:
            AuthError: TOKEN_INVALID, TOKEN_EXPIRED or TOKEN_AUDIENCE_MISMATCH (UNAUTHENTICATED).
        """
        if claims.get("iss") != self.issuer:
            invalid("is of another issuer")
        audience = claims.get("aud")
        if audience != self.audience and self.audience not in _texts(audience):
            raise AuthError("the token was made for somebody else", entry=TOKEN_AUDIENCE_MISMATCH)
        ends = _moment(claims, "exp")
        if ends is None:
            invalid("never ends")
        if ends + self.skew_s <= now:
            raise AuthError("the token has expired", entry=TOKEN_EXPIRED)
        for name in ("nbf", "iat"):
            begins = _moment(claims, name)
            if begins is not None and begins - self.skew_s > now:
                invalid("is not valid yet")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject.isprintable() or not 0 < len(subject) <= _SUBJECT_CHARS_MAX:
            invalid("names no subject")
        tenant_id = _claim(claims, self.tenant_claim)
        if not isinstance(tenant_id, str) or not _TENANT_ID.fullmatch(tenant_id):
            invalid("names no tenant")
        principal = Principal(tenant_id=tenant_id, roles=self._roles(claims), subject=f"jwt:{subject}")
        return principal, ends + self.skew_s

    def _roles(self, claims: Mapping[str, Any]) -> frozenset[str]:
        said = _claim(claims, self.roles_claim)
        words = said.split() if isinstance(said, str) else _texts(said)
        meant = [self.roles.get(word) for word in words] if self.roles else words
        return frozenset(role for role in meant if role in ROLES)


def invalid(why: str) -> NoReturn:
    """Raises TOKEN_INVALID (UNAUTHENTICATED); `why` never repeats anything of the token."""
    raise AuthError(f"the token {why}", entry=TOKEN_INVALID)


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # A truth value is a whole number in Python.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12 or math.isnan(value):
        invalid("has a time that is none")
    return float(value)


def _claim(claims: Mapping[str, Any], path: str) -> object:
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        found = cast("dict[str, object]", found).get(name) if isinstance(found, dict) else None
    return found


def _texts(value: object) -> list[str]:
    """The texts of a list; none where it is no list of texts, or a very long one."""
    entries = cast("list[object]", value) if isinstance(value, list) else []
    texts = [entry for entry in entries if isinstance(entry, str)]
    return texts if len(texts) == len(entries) <= _NAMES_MAX else []
