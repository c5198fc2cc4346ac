"""Pages of listings: their size, and the position that a page token stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_common.page_token import decode_page_token, encode_page_token
from headrace_registry.field_rules import VERSION_MAX, invalid

T = TypeVar("T")

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000

_MODELS = {"listing": "models"}


def page_size(wanted: int) -> int:
    """The number of rows of a page; 0 means 100.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) outside of 0 to 1000.
    """
    if not 0 <= wanted <= PAGE_SIZE_MAX:
        raise invalid("page_size", f"must be 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}")
    return wanted or PAGE_SIZE_DEFAULT


def page_of(rows: Sequence[T], size: int) -> tuple[Sequence[T], T | None]:
    """The rows to show out of up to `size + 1` read ones, and the last of them if there are more to come."""
    shown = rows[:size]
    return shown, shown[-1] if len(rows) > size else None


def models_token(last_name: str) -> str:
    """The token of the page of models after `last_name`."""
    return encode_page_token(_MODELS, (last_name,))


def models_position(token: str) -> str:
    """The name that a page of models begins after; empty for the first page.

    Raises:
        ValidationError: PAGE_TOKEN_INVALID (INVALID_ARGUMENT).
    """
    match decode_page_token(token, _MODELS):
        case None:
            return ""
        case (str() as last_name,) if "\0" not in last_name:
            return last_name
        case _:
            raise _bad_token()


def versions_token(model: str, last_version: int) -> str:
    """The token of the page of a model's versions below `last_version`."""
    return encode_page_token({"listing": "versions", "model": model}, (last_version,))


def versions_position(token: str, model: str) -> int:
    """The number that a page of versions lies below.

    Raises:
        ValidationError: PAGE_TOKEN_INVALID (INVALID_ARGUMENT): damaged, or of another model's listing.
    """
    match decode_page_token(token, {"listing": "versions", "model": model}):
        case None:
            return VERSION_MAX + 1
        case (int() as last_version,) if 1 <= last_version <= VERSION_MAX:
            return last_version
        case _:
            raise _bad_token()


def _bad_token() -> ValidationError:
    return ValidationError(
        "page_token is damaged or belongs to another query",
        entry=catalogue.PAGE_TOKEN_INVALID,
        context={"field": "page_token"},
        field="page_token",
    )
