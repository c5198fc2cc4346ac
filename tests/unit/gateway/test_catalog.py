"""The catalogue answers like the list of all that the feed ever said, however it was cut into messages."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.registry.internal.v1.catalog_pb2 import CatalogEntry
from headrace.registry.v1 import models_pb2
from headrace_common.errors import HeadraceError
from headrace_gateway.catalog import Catalog

TENANTS, MODELS, VERSIONS = ["acme", "other"], ["magika", "vad"], range(1, 5)
Place = tuple[str, str, int]


def entry(tenant_id: str, model: str, version: int, *, uid: str | None = None, archived: bool = False) -> CatalogEntry:
    state = models_pb2.VERSION_STATE_ARCHIVED if archived else models_pb2.VERSION_STATE_READY
    return CatalogEntry(
        tenant_id=tenant_id,
        version=models_pb2.Version(
            model=model, version=version, uid=uid or f"{tenant_id}/{model}/{version}", state=state
        ),
    )


def reason(catalog: Catalog, tenant_id: str, model: str, version: str) -> str:
    with pytest.raises(HeadraceError) as caught:
        catalog.resolve(tenant_id, model, version)
    return caught.value.reason


@dataclass(frozen=True)
class Step:
    """One revision: some versions become ready or archived; or a snapshot in place of a change."""

    changes: list[tuple[Place, bool]]
    snapshot: bool


PLACES = st.tuples(st.sampled_from(TENANTS), st.sampled_from(MODELS), st.sampled_from(VERSIONS))
STEPS = st.builds(Step, st.lists(st.tuples(PLACES, st.booleans()), max_size=4), st.booleans())


@given(st.lists(STEPS, max_size=20))
def test_resolves_like_a_list_of_all_ready_versions(steps: list[Step]) -> None:
    catalog = Catalog()
    left: list[str] = []
    catalog.add_listener(left.append)
    catalog.replace([])
    ready: set[Place] = set()
    for step in steps:
        before = set(ready)
        for place, archived in step.changes:
            ready.discard(place) if archived else ready.add(place)
        del left[:]
        if step.snapshot:
            catalog.replace([entry(*place) for place in sorted(ready, reverse=True)])
            gone = before - ready
            assert sorted(left) == sorted("/".join(map(str, place)) for place in gone)
        else:
            catalog.apply([entry(*place, archived=archived) for place, archived in step.changes])
            assert {"/".join(map(str, place)) for place in before - ready} <= set(left)
        assert len(catalog) == len(ready)
        for tenant_id in TENANTS:
            for model in MODELS:
                numbers = sorted(version for t, m, version in ready if (t, m) == (tenant_id, model))
                assert [found.version for found in catalog.versions_of(tenant_id, model)] == numbers
                for version in VERSIONS:
                    if version in numbers:
                        found = catalog.resolve(tenant_id, model, str(version))
                        assert (found.tenant_id, found.model, found.version) == (tenant_id, model, version)
                        assert catalog.by_uid(found.uid) is found
                    else:
                        assert reason(catalog, tenant_id, model, str(version)).startswith("MODEL_")
                if numbers:
                    assert catalog.resolve(tenant_id, model, "").version == numbers[-1]
                else:
                    assert reason(catalog, tenant_id, model, "") == "MODEL_NOT_FOUND"


def test_before_the_first_snapshot_everything_is_unavailable_with_a_hint() -> None:
    with pytest.raises(HeadraceError) as caught:
        Catalog().resolve("acme", "magika", "")
    assert (caught.value.reason, caught.value.entry.grpc) == ("CATALOG_NOT_READY", "UNAVAILABLE")
    assert caught.value.retry_after_s is not None


def test_foreign_model_is_answered_exactly_as_one_that_never_existed() -> None:
    with_model, without = Catalog(), Catalog()
    with_model.replace([entry("acme", "magika", 1), entry("acme", "magika", 2)])
    with_model.apply([entry("acme", "magika", 2, archived=True)])
    without.replace([])
    for version in ("", "1", "2", "3", "x", "0"):
        failures: list[tuple[object, ...]] = []
        for catalog in (with_model, without):
            with pytest.raises(HeadraceError) as caught:
                catalog.resolve("other", "magika", version)
            error = caught.value
            failures.append((error.entry, error.message, error.context, error.field, error.retry_after_s))
        assert failures[0] == failures[1]


@pytest.mark.parametrize(
    "version", ["0", "-1", "+1", "01", "1.0", "latest", " 1", "1 ", "\uff11", "9" * 20, "1" * 5_000]
)
def test_version_that_is_no_positive_whole_number_is_invalid(version: str) -> None:
    catalog = Catalog()
    catalog.replace([entry("acme", "magika", 1)])
    assert reason(catalog, "acme", "magika", version) == "MODEL_VERSION_INVALID"


def test_missing_archived_and_unknown_are_told_apart() -> None:
    catalog = Catalog()
    catalog.replace([entry("acme", "magika", 1), entry("acme", "magika", 2)])
    catalog.apply([entry("acme", "magika", 2, archived=True)])
    assert reason(catalog, "acme", "magika", "2") == "MODEL_VERSION_ARCHIVED"
    assert reason(catalog, "acme", "magika", "3") == "MODEL_VERSION_NOT_FOUND"
    assert reason(catalog, "acme", "nothing", "1") == "MODEL_NOT_FOUND"
    assert catalog.resolve("acme", "magika", "").version == 1


def test_listener_hears_of_a_version_that_another_one_took_the_place_of() -> None:
    catalog = Catalog()
    left: list[str] = []
    catalog.add_listener(left.append)
    catalog.replace([entry("acme", "magika", 1, uid="first")])
    catalog.apply([entry("acme", "magika", 1, uid="second")])
    assert left == ["first"]
    assert catalog.by_uid("first") is None
    assert catalog.resolve("acme", "magika", "1").uid == "second"
    catalog.replace([])
    assert left == ["first", "second"]


def test_long_names_are_cut_in_messages() -> None:
    catalog = Catalog()
    catalog.replace([])
    with pytest.raises(HeadraceError) as caught:
        catalog.resolve("acme", "m" * 100_000, "")
    assert len(caught.value.message) < 200
