"""Pages and their tokens."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_common.errors import ValidationError
from headrace_quota.paging import key_position, key_token, page_of, page_size, tenant_position, tenant_token
from headrace_quota.store import KeyPosition

MOMENTS = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def forged(query: dict[str, Any], body: bytes) -> str:
    """A token with a right binding over any content: the binding is no secret."""
    canonical = json.dumps(query, sort_keys=True, separators=(",", ":")).encode()
    binding = hashlib.sha256(canonical + b"\x00" + body).digest()[:12]
    return base64.urlsafe_b64encode(binding + body).rstrip(b"=").decode()


@given(st.integers(min_value=-(2**31), max_value=2**31 - 1))
def test_page_size_is_1_to_1000_or_the_default(wanted: int) -> None:
    if 0 <= wanted <= 1000:
        assert page_size(wanted) == (wanted or 100)
    else:
        with pytest.raises(ValidationError) as refused:
            page_size(wanted)
        assert (refused.value.field, refused.value.context["limit"]) == ("page_size", 1000)


@given(st.lists(st.integers(), max_size=30), st.integers(min_value=1, max_value=20))
def test_pages_together_are_the_listing(rows: list[int], size: int) -> None:
    seen: list[int] = []
    while True:
        shown, last = page_of(rows[len(seen) : len(seen) + size + 1], size)
        seen.extend(shown)
        if last is None:
            break
        assert shown
    assert seen == rows


@given(st.text(alphabet="abc-0", min_size=2, max_size=63))
def test_tenant_token_leads_back_to_its_position(last_id: str) -> None:
    assert tenant_position(tenant_token(last_id)) == last_id


@given(MOMENTS, st.uuids())
def test_key_token_leads_back_to_its_position(moment: datetime, key_id: object) -> None:
    position = KeyPosition(moment, str(key_id))
    assert key_position(key_token("acme", position), "acme") == position


def test_empty_token_is_the_first_page() -> None:
    assert tenant_position("") == ""
    assert key_position("", "acme") is None


@pytest.mark.parametrize("token", ["x", "!!", "A" * 3000, "é", tenant_token("acme")[:-2], "AAAA" * 10])
def test_damaged_tokens_are_refused(token: str) -> None:
    for decode in (tenant_position, lambda text: key_position(text, "acme")):
        with pytest.raises(ValidationError, match="PAGE_TOKEN_INVALID"):
            decode(token)


def test_token_of_another_listing_is_refused() -> None:
    position = KeyPosition(datetime(2026, 1, 1, tzinfo=UTC), "0" * 32)
    with pytest.raises(ValidationError, match="PAGE_TOKEN_INVALID"):
        key_position(key_token("acme", position), "rival")
    with pytest.raises(ValidationError, match="PAGE_TOKEN_INVALID"):
        tenant_position(key_token("acme", position))


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"[1]",
        b'["a","b","c"]',
        b'["2026-01-01","00000000-0000-0000-0000-000000000000"]',
        b'["x","y"]',
        b"{}",
        b"not JSON",
        b"[" * 1400,
        b"\xff",
    ],
)
def test_forged_token_with_a_right_binding_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationError, match="PAGE_TOKEN_INVALID"):
        key_position(forged({"listing": "api_keys", "tenant_id": "acme"}, body), "acme")


def test_forged_tenant_token_cannot_carry_what_the_database_refuses() -> None:
    with pytest.raises(ValidationError, match="PAGE_TOKEN_INVALID"):
        tenant_position(forged({"listing": "tenants"}, b'["a\\u0000"]'))
