"""How keys are made and what may be said of them."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from random import Random, SystemRandom

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_common.errors import HeadraceError
from headrace_quota.api_keys import KeyDraft, KeyMaterial, Role, checked_key_id, draft_key, ordered_roles

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def draft(**fields: object) -> KeyDraft:
    values = {
        "material": KeyMaterial.mint(Random(1)),
        "tenant_id": "acme",
        "display_name": "",
        "roles": (),
        "expire_time": None,
        "now": NOW,
    }
    return draft_key(**(values | fields))  # pyright: ignore[reportArgumentType]


@given(st.integers())
def test_minted_key_has_the_documented_form(seed: int) -> None:
    material = KeyMaterial.mint(Random(seed))
    assert re.fullmatch(r"hr_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}", material.key)
    assert material.key.startswith(material.prefix + "_")
    assert len(material.prefix) == 11


def test_minted_keys_differ_in_what_is_never_shown() -> None:
    random = SystemRandom()
    secrets = {KeyMaterial.mint(random).key.rpartition("_")[2] for _ in range(500)}
    assert len(secrets) == 500


def test_stored_digest_is_the_sha256_of_the_key_and_the_key_is_in_no_text_form() -> None:
    material = KeyMaterial.mint(Random(7))
    stored = draft(material=material)
    assert stored.sha256 == hashlib.sha256(material.key.encode()).digest()
    secret = material.key.rpartition("_")[2]
    assert secret not in repr(material)
    assert secret not in str(material)
    assert secret not in repr(stored)


@pytest.mark.parametrize("key", ["x" * 31, "x" * 257, "x" * 40 + " ", "x" * 20 + "\n" + "x" * 20, "é" * 40, ""])
def test_given_key_that_is_short_long_or_unprintable_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ValueError, match="32 to 256 printable") as refused:
        KeyMaterial.given(key)
    assert not key or key not in str(refused.value)


def test_given_key_of_our_form_shows_its_prefix_and_another_one_four_characters() -> None:
    minted = KeyMaterial.mint(Random(3))
    assert KeyMaterial.given(minted.key) == minted
    assert KeyMaterial.given("abcdefgh" * 5).prefix == "abcd"


@given(st.lists(st.sampled_from(Role)))
def test_roles_are_kept_once_weakest_first(roles: list[Role]) -> None:
    kept = ordered_roles(roles)
    assert set(kept) == set(roles)
    assert len(kept) == len(set(roles))
    assert list(kept) == sorted(kept, key=list(Role).index)


def test_no_roles_means_user() -> None:
    assert draft().roles == (Role.USER,)


@pytest.mark.parametrize("late_s", [0, 1, 3600])
def test_expiry_that_is_not_in_the_future_is_refused(late_s: float) -> None:
    with pytest.raises(HeadraceError) as refused:
        draft(expire_time=NOW - timedelta(seconds=late_s))
    assert (refused.value.reason, refused.value.field) == ("FIELD_INVALID", "expire_time")
    assert draft(expire_time=NOW + timedelta(microseconds=1)).expire_time is not None


@given(st.uuids())
def test_key_id_is_taken_in_any_spelling_of_its_uuid(key_id: object) -> None:
    assert checked_key_id(str(key_id).upper()) == str(key_id)


@pytest.mark.parametrize("key_id", ["", "x", "hr_abcdefgh_" + "x" * 43, "1234", "\0" * 36])
def test_what_is_no_key_id_is_refused_with_the_field_named(key_id: str) -> None:
    with pytest.raises(HeadraceError) as refused:
        checked_key_id(key_id)
    assert refused.value.field == "id"
    assert not key_id or key_id not in refused.value.message
