"""The one credential that a call may carry."""

from __future__ import annotations

import re
from collections.abc import Iterable

from headrace_common.catalogue import CREDENTIAL_MALFORMED, CREDENTIAL_MISSING
from headrace_common.errors import AuthError

API_KEY = "x-api-key"
AUTHORIZATION = "authorization"
_KEY = re.compile(r"[\x21-\x7e]{1,256}")
_BEARER = "bearer "


def presented_key(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The API key of a call, from `x-api-key` or `authorization: Bearer`.

    Raises:
        AuthError: CREDENTIAL_MISSING when there is none; CREDENTIAL_MALFORMED when there is more than one (which of
            them counts would be a guess), another scheme than Bearer, or something that can't be a key. Both are
            UNAUTHENTICATED. The text never repeats what was sent.
    """
    found: str | bytes | None = None
    bearer = False
    for name, value in metadata:
        if name in (API_KEY, AUTHORIZATION):
            if found is not None:
                raise _malformed(f"send one credential: either {API_KEY} or {AUTHORIZATION}, once")
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
    if not _KEY.fullmatch(found):
        raise _malformed("the API key must be 1 to 256 printable characters without spaces")
    return found


def _malformed(message: str) -> AuthError:
    return AuthError(message, entry=CREDENTIAL_MALFORMED)
