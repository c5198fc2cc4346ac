"""Tokens of callers: checked once, and known until they end."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from joserfc import jws
from joserfc.errors import JoseError

from headrace_common.catalogue import CREDENTIALS_NOT_READY, TOKEN_EXPIRED
from headrace_common.clock import Clock
from headrace_common.errors import AuthError, AuthUnavailable
from headrace_common.principal import Principal
from headrace_gateway.oidc.issuer_keys import IssuerKeys
from headrace_gateway.oidc.token_rules import TokenRules, invalid

_RETRY_AFTER_S = 0.5


class _Known(NamedTuple):
    principal: Principal
    ends_at: float


class Tokens:
    """Turns tokens into principals. Event loop only; a token that is known costs a digest and a look-up.

    Args:
        rules: What tokens must say.
        clock: Decides whether one has ended.
        ask_again: Asks for the issuer's keys to be read again, because of a key that is not among them, and tells
            whether that is going to happen.
        kept_max: Tokens that are known; the one that was used longest ago goes first.
    """

    def __init__(
        self, *, rules: TokenRules, clock: Clock, ask_again: Callable[[], bool] = lambda: False, kept_max: int = 10_000
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._ask_again = ask_again
        self._kept_max = kept_max
        self._keys: IssuerKeys | None = None
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def use(self, keys: IssuerKeys) -> None:
        """Takes what the issuer publishes now; tokens are checked again, for their keys may be gone."""
        self._keys = keys
        self._known.clear()

    def principal(self, token: str) -> Principal:
        """Whom a token stands for.

        Raises:
            AuthError: TOKEN_INVALID, TOKEN_EXPIRED, TOKEN_AUDIENCE_MISMATCH (UNAUTHENTICATED).
            AuthUnavailable: CREDENTIALS_NOT_READY (UNAVAILABLE): the issuer's keys are about to be read.
        """
        now = self._clock.now().timestamp()
        digest = hashlib.sha256(token.encode("ascii")).digest()
        known = self._known.get(digest)
        if known is None:
            known = _Known(*self._rules.read(self._claims(token), now))
            self._known[digest] = known
            if len(self._known) > self._kept_max:
                self._known.popitem(last=False)
        elif known.ends_at <= now:
            del self._known[digest]
            raise AuthError("the token has expired", entry=TOKEN_EXPIRED)
        else:
            self._known.move_to_end(digest)
        return known.principal

    def _claims(self, token: str) -> dict[str, Any]:
        if self._keys is None:
            raise _not_ready()
        kid, algorithm = self._rules.key_of(_header(token))
        key = self._keys.find(kid, algorithm)
        if key is None:
            if kid is not None and kid not in self._keys and self._ask_again():
                raise _not_ready()
            invalid("is signed by a key that its issuer doesn't publish")
        try:
            payload = jws.deserialize_compact(token, key, algorithms=[algorithm]).payload
            claims: object = json.loads(payload or b"")
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            invalid("is not valid")
        if not isinstance(claims, dict):
            invalid("is not valid")
        return cast("dict[str, Any]", claims)


def _header(token: str) -> dict[str, Any]:
    encoded = token.partition(".")[0]
    try:
        header: object = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        invalid("has no header")
    if not isinstance(header, dict):
        invalid("has no header")
    return cast("dict[str, Any]", header)


def _not_ready() -> AuthUnavailable:
    return AuthUnavailable(
        "the keys of the token's issuer are about to be read",
        entry=CREDENTIALS_NOT_READY,
        retry_after_s=_RETRY_AFTER_S,
    )
