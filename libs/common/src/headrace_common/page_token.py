"""Opaque page tokens: a position in a listing, bound to the query that the listing answers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import cast

from headrace_common import catalogue
from headrace_common.errors import ValidationError

QueryValue = str | int | bool | None
Position = tuple[str | int, ...]

_TOKEN_CHARS_MAX = 2_048
_BINDING_BYTES = 12


def encode_page_token(query: Mapping[str, QueryValue], position: Position) -> str:
    """A URL-safe token for the page after `position` (the sort key of the last row shown).

    The token isn't secret and grants nothing: row-level security decides what a page shows.
    """
    body = json.dumps(list(position), separators=(",", ":"), ensure_ascii=True).encode()
    return base64.urlsafe_b64encode(_binding(query, body) + body).rstrip(b"=").decode()


def decode_page_token(token: str, query: Mapping[str, QueryValue]) -> Position | None:
    """The position to continue after; None for the empty token, which means the first page.

    Raises:
        ValidationError: PAGE_TOKEN_INVALID (INVALID_ARGUMENT): damaged, or made for another query.
    """
    if not token:
        return None
    if len(token) > _TOKEN_CHARS_MAX:
        raise _invalid()
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _invalid() from None
    binding, body = raw[:_BINDING_BYTES], raw[_BINDING_BYTES:]
    if binding != _binding(query, body):
        raise _invalid()
    try:
        # The binding is no secret, so also a rightly bound body may be anything.
        decoded: object = json.loads(body)
    except (ValueError, RecursionError):
        raise _invalid() from None
    if not isinstance(decoded, list):
        raise _invalid()
    return tuple(cast("list[str | int]", decoded))


def _binding(query: Mapping[str, QueryValue], body: bytes) -> bytes:
    canonical = json.dumps(dict(query), sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical + b"\x00" + body).digest()[:_BINDING_BYTES]


def _invalid() -> ValidationError:
    return ValidationError(
        "page_token is damaged or belongs to another query",
        entry=catalogue.PAGE_TOKEN_INVALID,
        context={"field": "page_token"},
        field="page_token",
    )
