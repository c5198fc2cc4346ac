"""What may be said of a tenant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_common.errors import HeadraceError
from headrace_quota.tenants import Tenant, TenantDraft, TenantStatus, check_tenant_id, check_text

LOWER = "abcdefghijklmnopqrstuvwxyz"
REST = LOWER + "0123456789-"


def draft(**fields: object) -> TenantDraft:
    values = {"tenant_id": "acme", "display_name": "", "tier": "", "metadata": {}} | fields
    return TenantDraft.checked(**values)  # pyright: ignore[reportArgumentType]


def stored(given: TenantDraft, **changes: object) -> Tenant:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    values = {
        "id": given.id,
        "display_name": given.display_name,
        "status": TenantStatus.ACTIVE,
        "tier": given.tier,
        "metadata": given.metadata,
        "isolation": given.isolation,
        "create_time": now,
        "update_time": now,
    }
    return Tenant(**(values | changes))  # pyright: ignore[reportArgumentType]


@given(st.text(alphabet=LOWER, min_size=1, max_size=1), st.text(alphabet=REST, min_size=1, max_size=62))
def test_id_of_the_grammar_is_accepted(first: str, rest: str) -> None:
    check_tenant_id(first + rest, field="id")


@given(st.text(max_size=80))
def test_any_other_id_is_refused_with_the_field_named(text: str) -> None:
    grammatical = 2 <= len(text) <= 63 and text[0] in LOWER and all(letter in REST for letter in text)
    if grammatical:
        return
    with pytest.raises(HeadraceError) as refused:
        check_tenant_id(text, field="tenant_id")
    assert refused.value.field == "tenant_id"
    assert refused.value.reason == ("FIELD_REQUIRED" if text == "" else "TENANT_ID_INVALID")


@pytest.mark.parametrize(
    "bad", ["acme\n", "Acme", "1acme", "a", "a" * 64, "acme_x", "äcme", "acme ", "-acme", "acme\0"]
)
def test_near_misses_of_the_grammar_are_refused(bad: str) -> None:
    with pytest.raises(HeadraceError, match="TENANT_ID_INVALID"):
        check_tenant_id(bad, field="id")


def test_empty_name_becomes_the_id_and_empty_tier_becomes_standard() -> None:
    assert (draft().display_name, draft().tier) == ("acme", "standard")


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"display_name": "x" * 257}, "FIELD_TOO_LONG", "display_name"),
        ({"tier": "x" * 257}, "FIELD_TOO_LONG", "tier"),
        ({"metadata": {f"k{n}": "" for n in range(65)}}, "FIELD_TOO_LONG", "metadata"),
        ({"metadata": {"k" * 257: ""}}, "FIELD_TOO_LONG", "metadata.key"),
        ({"metadata": {"k": "v" * 257}}, "FIELD_TOO_LONG", "metadata.value"),
        ({"metadata": {"": "v"}}, "FIELD_REQUIRED", "metadata.key"),
        ({"metadata": {"k": "a\0b"}}, "FIELD_INVALID", "metadata.value"),
        ({"display_name": "a\nb"}, "FIELD_INVALID", "display_name"),
    ],
)
def test_limits_are_refused_with_field_and_limit(fields: dict[str, object], reason: str, field: str) -> None:
    with pytest.raises(HeadraceError) as refused:
        draft(**fields)
    assert (refused.value.reason, refused.value.field) == (reason, field)
    if reason == "FIELD_TOO_LONG":
        assert str(refused.value.context["limit"]) in refused.value.message


def test_values_at_the_limits_are_accepted() -> None:
    pairs = {f"{n:0256d}": "v" * 256 for n in range(64)}
    assert draft(display_name="x" * 256, tier="t" * 256, metadata=pairs).metadata == pairs


@given(st.text(max_size=300))
def test_accepted_text_can_be_stored_and_shown_on_one_line(text: str) -> None:
    try:
        check_text(text, field="display_name", chars_max=256)
    except HeadraceError:
        return
    assert text.encode().decode() == text
    assert "\0" not in text
    assert len(text.split("\n")) == 1


@pytest.mark.parametrize(
    "change", [{"display_name": "Other"}, {"tier": "gold"}, {"metadata": {"k": "v"}}, {"id": "other"}]
)
def test_draft_describes_only_a_tenant_with_the_same_fields(change: dict[str, object]) -> None:
    mine = draft()
    assert mine.describes(stored(mine))
    assert not mine.describes(stored(mine, **change))


def test_suspension_does_not_make_a_repeated_creation_another_one() -> None:
    mine = draft()
    assert mine.describes(stored(mine, status=TenantStatus.SUSPENDED))
