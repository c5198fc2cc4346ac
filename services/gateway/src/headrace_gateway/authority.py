"""Which host names a call may claim while a well-known key is accepted.

The well-known key is safe only as long as the machine's own programs alone reach the listener. A web page that had
its name pointed to 127.0.0.1 reaches it too, through the user's browser, but says so: browsers name the page's host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from headrace_common.catalogue import AUTHORITY_FORBIDDEN
from headrace_common.errors import AuthError

_LOOPBACK = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_HOSTS = frozenset({":authority", "host", "x-forwarded-host", "x-original-host"})
_ORIGINS = frozenset({"origin", "referer"})


def is_loopback_authority(authority: str) -> bool:
    """Whether an HTTP authority is `localhost`, `127.0.0.1` or `[::1]`, with any port or none."""
    return _LOOPBACK.fullmatch(authority) is not None


def require_loopback(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Refuses a call that names another host than the loopback ones, as its target or as the page that it comes from.

    Raises:
        AuthError: AUTHORITY_FORBIDDEN (PERMISSION_DENIED).
    """
    for name, value in metadata:
        if name in _HOSTS:
            authority = _text(value)
        elif name in _ORIGINS:
            authority = _text(value).partition("://")[2].partition("/")[0]
        else:
            continue
        if not is_loopback_authority(authority):
            raise AuthError(
                "the key 'community' is accepted only under the names localhost, 127.0.0.1 and [::1]",
                entry=AUTHORITY_FORBIDDEN,
                context={"authority": authority[:128]},
            )


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
