"""The id that ties one request's log lines together, and the trace it belongs to."""

from __future__ import annotations

import random
import re

REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")


def new_request_id() -> str:
    # Tells requests apart and guards nothing; a UUID from the system's entropy takes ten times as long.
    return f"{random.getrandbits(128):032x}"


def accept_request_id(value: str | bytes | None) -> str:
    """The caller's id where it is 1 to 128 plain characters, else a new one: ids go into logs unescaped."""
    if isinstance(value, str) and _REQUEST_ID.fullmatch(value):
        return value
    return new_request_id()


def trace_id_of(traceparent: str | bytes | None) -> str | None:
    """The trace id of a W3C `traceparent`, or None where it is absent, malformed or all zero."""
    if not isinstance(traceparent, str):
        return None
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or match.group(1) == "0" * 32 or match.group(2) == "0" * 16:
        return None
    return match.group(1)
