"""What a call's metadata says of its caller: one credential, and what it claims beside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from headrace_common.catalogue import CREDENTIAL_MALFORMED, CREDENTIAL_MISSING
from headrace_common.errors import AuthError
from headrace_common.features import FEATURE_KEY

API_KEY = "x-api-key"
AUTHORIZATION = "authorization"
TENANT_ID = "x-tenant-id"
_NAMES = frozenset((API_KEY, AUTHORIZATION, TENANT_ID, FEATURE_KEY))
_KEY = re.compile(r"[\x21-\x7e]{1,256}")
_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_TOKEN_CHARS_MAX = 8_192
_BEARER = "bearer "


class Presented(NamedTuple):
    """What a call presents.

    Attributes:
        credential: The API key, or a signed token.
        token: Whether it is a token.
        tenant_ids: Every tenant that it says it is of.
        features: Every feature that it says it is part of.
    """

    credential: str
    token: bool = False
    tenant_ids: tuple[str | bytes, ...] = ()
    features: tuple[str, ...] = ()


def presented(metadata: Iterable[tuple[str, str | bytes]], *, tokens: bool = False) -> Presented:
    """What a call presents; its key from `x-api-key` or `authorization: Bearer`.

    Args:
        metadata: Of the call.
        tokens: Whether signed tokens are accepted, as `authorization: Bearer`.

    Raises:
        AuthError: CREDENTIAL_MISSING when there is none; CREDENTIAL_MALFORMED when there is more than one (which of
            them counts would be a guess), another scheme than Bearer, or something that can't be a key. Both are
            UNAUTHENTICATED. The text never repeats what was sent.
    """
    found: str | bytes | None = None
    bearer = False
    tenant_ids: tuple[str | bytes, ...] = ()
    features: tuple[str, ...] = ()
    for name, value in metadata:
        if name not in _NAMES:
            continue
        if name == TENANT_ID:
            tenant_ids += (value,)
        elif name == FEATURE_KEY:
            features += tuple(value.split(",")) if isinstance(value, str) else ()
        elif found is not None:
            raise _malformed(f"send one credential: either {API_KEY} or {AUTHORIZATION}, once")
        else:
            found, bearer = value, name == AUTHORIZATION
    if found is None:
        raise AuthError(
            f"the call carries no API key; send it as {API_KEY} or as '{AUTHORIZATION}: Bearer <key>'",
            entry=CREDENTIAL_MISSING,
        )
    if not isinstance(found, str):
        raise _malformed("the API key must be text")
    if bearer:
        if found[: len(_BEARER)].lower() != _BEARER:
            raise _malformed(f"{AUTHORIZATION} must be 'Bearer <key>'")
        found = found[len(_BEARER) :]
        if tokens and len(found) <= _TOKEN_CHARS_MAX and _TOKEN.fullmatch(found):
            return Presented(found, True, tenant_ids, features)
    if not _KEY.fullmatch(found):
        raise _malformed("the API key must be 1 to 256 printable characters without spaces")
    return Presented(found, False, tenant_ids, features)


def _malformed(message: str) -> AuthError:
    return AuthError(message, entry=CREDENTIAL_MALFORMED)
