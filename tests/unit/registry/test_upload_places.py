"""Places for uploads: a limit for all, and a share for each tenant."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_registry.upload_places import UploadPlaces


@pytest.mark.parametrize(("limit", "share"), [(1, 1), (3, 1), (4, 1), (16, 4)])
def test_tenant_gets_a_quarter_and_at_least_one_place(limit: int, share: int) -> None:
    places = UploadPlaces(limit=limit)
    with ExitStack() as held:
        for _ in range(share):
            held.enter_context(places.taken_by("acme"))
        with pytest.raises(HeadraceError) as failure, places.taken_by("acme"):
            pass
        assert failure.value.entry is catalogue.CONCURRENCY_LIMIT_EXCEEDED
        assert failure.value.context == {"limit": share}
        if limit > share:
            held.enter_context(places.taken_by("globex"))
    with places.taken_by("acme"):
        pass


def test_all_places_together_are_limited() -> None:
    places = UploadPlaces(limit=4)
    with ExitStack() as held:
        for tenant in "abcd":
            held.enter_context(places.taken_by(tenant))
        with pytest.raises(HeadraceError) as failure, places.taken_by("e"):
            pass
        assert failure.value.entry is catalogue.SERVER_OVERLOADED


def test_place_of_a_failed_upload_is_free_again() -> None:
    places = UploadPlaces(limit=1)
    for _ in range(2):
        with pytest.raises(KeyError), places.taken_by("acme"):
            raise KeyError
