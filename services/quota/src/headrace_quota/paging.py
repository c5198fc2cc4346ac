"""Pages of listings: their size, and the position that a page token stands for."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_common.page_token import decode_page_token, encode_page_token
from headrace_quota.store import KeyPosition

T = TypeVar("T")

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000

# A UUID, or a number.
_ROW_ID = re.compile(r"[0-9]{1,18}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TENANTS = {"listing": "tenants"}
_PLANS = {"listing": "plans"}


def page_size(wanted: int) -> int:
    """The number of rows of a page; 0 means 100.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT) outside of 0 to 1000.
    """
    if not 0 <= wanted <= PAGE_SIZE_MAX:
        raise ValidationError(
            f"page_size must be 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}",
            entry=catalogue.FIELD_INVALID,
            context={"field": "page_size", "limit": PAGE_SIZE_MAX},
            field="page_size",
        )
    return wanted or PAGE_SIZE_DEFAULT


def page_of(rows: Sequence[T], size: int) -> tuple[Sequence[T], T | None]:
    """The rows to show out of up to `size + 1` read ones, and the last of them if there are more to come."""
    shown = rows[:size]
    return shown, shown[-1] if len(rows) > size else None


def tenant_token(last_id: str) -> str:
    """The token of the page of tenants after `last_id`."""
    return encode_page_token(_TENANTS, (last_id,))


def tenant_position(token: str) -> str:
    """The id that a page of tenants begins after; empty for the first page.

    Raises:
        ValidationError: PAGE_TOKEN_INVALID (INVALID_ARGUMENT).
    """
    return _name_position(token, _TENANTS)


def plan_token(last_name: str) -> str:
    """The token of the page of plans after `last_name`."""
    return encode_page_token(_PLANS, (last_name,))


def plan_position(token: str) -> str:
    """The name that a page of plans begins after; empty for the first page.

    Raises:
        ValidationError: PAGE_TOKEN_INVALID (INVALID_ARGUMENT).
    """
    return _name_position(token, _PLANS)


def key_token(tenant_id: str, last: KeyPosition) -> str:
    """The token of the page of a tenant's keys after `last`."""
    query = {"listing": "api_keys", "tenant_id": tenant_id}
    return encode_page_token(query, (last.create_time.astimezone(UTC).isoformat(), last.key_id))


def key_position(token: str, tenant_id: str) -> KeyPosition | None:
    """The position that a page of a tenant's keys begins after; None for the first page.

    Raises:
        ValidationError: PAGE_TOKEN_INVALID (INVALID_ARGUMENT): damaged, or of another tenant's listing.
    """
    match decode_page_token(token, {"listing": "api_keys", "tenant_id": tenant_id}):
        case None:
            return None
        case (str() as create_time, str() as key_id):
            try:
                return KeyPosition(_aware(datetime.fromisoformat(create_time)), str(uuid.UUID(key_id)))
            except ValueError:
                raise _invalid() from None
        case _:
            raise _invalid()


def time_token(listing: dict[str, str], time: datetime, row_id: str) -> str:
    """The token of the page after a row of a listing that is ordered by time."""
    return encode_page_token(listing, (time.astimezone(UTC).isoformat(), row_id))


def time_position(token: str, listing: dict[str, str]) -> tuple[datetime, str] | None:
    """Time and identifier of the row that a page begins after; None for the first page.

    Raises:
        ValidationError: PAGE_TOKEN_INVALID (INVALID_ARGUMENT): damaged, or of another query.
    """
    match decode_page_token(token, listing):
        case None:
            return None
        case (str() as time, str() as row_id) if _ROW_ID.fullmatch(row_id):
            try:
                return _aware(datetime.fromisoformat(time)), row_id
            except ValueError:
                raise _invalid() from None
        case _:
            raise _invalid()


def _name_position(token: str, listing: dict[str, str]) -> str:
    match decode_page_token(token, listing):
        case None:
            return ""
        case (str() as last_name,) if "\0" not in last_name:
            return last_name
        case _:
            raise _invalid()


def _aware(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("a position's time has a zone")
    return instant


def _invalid() -> ValidationError:
    return ValidationError(
        "page_token is damaged or belongs to another query",
        entry=catalogue.PAGE_TOKEN_INVALID,
        context={"field": "page_token"},
        field="page_token",
    )
