"""MessagePack, whose package has no types."""

from __future__ import annotations

from typing import Any

import msgpack  # pyright: ignore[reportMissingTypeStubs]

from headrace_client import failures
from headrace_client.errors import ValidationError

_PACKAGE: Any = msgpack


def unpacked(body: bytes) -> object:
    """What a body says. Its bounds are those of its length.

    Raises:
        ValidationError: REQUEST_MALFORMED, it is no MessagePack.
    """
    try:
        return _PACKAGE.unpackb(body, raw=False, strict_map_key=True)
    except (ValueError, _PACKAGE.exceptions.UnpackException):
        raise ValidationError("the body is not MessagePack", failures.REQUEST_MALFORMED) from None


def packed(document: object) -> bytes:
    """A document's bytes."""
    content: bytes = _PACKAGE.packb(document)
    return content
