"""One suite over both stores: the twin in memory says what PostgreSQL must do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from headrace_common import catalogue
from headrace_common.clock import SystemClock
from headrace_common.errors import ModelError
from headrace_common.postgres import Database
from headrace_registry.catalog_history import CatalogHistory
from headrace_registry.memory_store import MemoryRegistryStore
from headrace_registry.models import ModelDraft, VersionState
from headrace_registry.postgres_history import PostgresCatalogHistory
from headrace_registry.postgres_store import PostgresRegistryStore
from headrace_registry.store import RegistryStore
from support.registry_drafts import MANIFEST, draft, file_of


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A store and the history of what was written to it."""

    store: RegistryStore
    history: CatalogHistory


@pytest.fixture(params=["memory", "postgres"])
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    """Each test runs once over each store."""
    if request.param == "memory":
        memory = MemoryRegistryStore(clock=SystemClock())
        yield Kept(store=memory, history=memory)
        return
    url: str = request.getfixturevalue("registry_database_url")
    async with Database(url=url, service="registry") as database:
        yield Kept(store=PostgresRegistryStore(database=database), history=PostgresCatalogHistory(database=database))


async def test_model_is_made_once(kept: Kept) -> None:
    made, created = await kept.store.create_model(
        ModelDraft(tenant_id="acme", name="m", description="d", metadata={"k": "v"})
    )
    assert created
    assert (made.description, dict(made.metadata), made.latest_version) == ("d", {"k": "v"}, 0)
    assert made.create_time.tzinfo is not None
    again, created = await kept.store.create_model(ModelDraft(tenant_id="acme", name="m", description="other"))
    assert not created
    assert again == made
    assert await kept.store.model("acme", "m") == made
    assert await kept.store.model("globex", "m") is None


async def test_models_are_ordered_byte_by_byte(kept: Kept) -> None:
    names = ["Z", "a", "a-b", "a.b", "a0", "a_b", "b"]
    for name in reversed(names):
        await kept.store.create_model(ModelDraft(tenant_id="acme", name=name))
    await kept.store.create_model(ModelDraft(tenant_id="globex", name="foreign"))
    assert [model.name for model in await kept.store.models("acme", after_name="", limit=10)] == sorted(names)
    page = await kept.store.models("acme", after_name="a", limit=3)
    assert [model.name for model in page] == ["a-b", "a.b", "a0"]


async def test_registered_version_says_what_its_draft_said(kept: Kept) -> None:
    wanted = draft(version=5, stated_manifest=b"stated", files=[file_of("one"), file_of("other", "a.json")])
    version, created = await kept.store.register_version(wanted)
    assert created
    assert (version.tenant_id, version.model, version.version, version.uid) == ("acme", "m", 5, wanted.uid)
    assert (version.state, version.archive_time) == (VersionState.READY, None)
    assert (version.manifest, version.stated_manifest) == (MANIFEST, b"stated")
    files = sorted(wanted.files, key=lambda file: file.path)
    assert [(file.path, file.size_bytes, file.sha256) for file in version.files] == [
        (file.path, file.content.size_bytes, file.content.sha256.hex()) for file in files
    ]
    for file, registered in zip(files, version.files, strict=True):
        assert list(await kept.store.segments("acme", registered.sha256)) == list(file.content.segments)
    file = version.files[0]
    assert list(await kept.store.segments("globex", file.sha256)) == []
    assert await kept.store.version("acme", "m", 5) == version
    assert await kept.store.version("acme", "m", 0) == version
    assert await kept.store.version_by_uid("acme", version.uid) == version
    assert await kept.store.version_by_uid("globex", version.uid) is None
    assert await kept.store.version_by_uid("acme", "no uuid") is None


async def test_numbers_follow_the_highest_ever_given(kept: Kept) -> None:
    await kept.store.register_version(draft("a", version=7))
    await kept.store.archive_version("acme", "m", 7)
    version, _ = await kept.store.register_version(draft("b"))
    assert version.version == 8
    version, _ = await kept.store.register_version(draft("c", version=3))
    assert version.version == 3
    version, _ = await kept.store.register_version(draft("d"))
    assert version.version == 9


async def test_draft_without_a_number_is_the_latest_version_if_that_is_the_same(kept: Kept) -> None:
    first, _ = await kept.store.register_version(draft("a"))
    assert await kept.store.register_version(draft("a")) == (first, False)
    stated, created = await kept.store.register_version(draft("a", stated_manifest=b"other"))
    assert (stated.version, created) == (2, True)
    # Only the latest one counts: going back to older bytes is a new version.
    assert (await kept.store.register_version(draft("a")))[0].version == 3
    await kept.store.archive_version("acme", "m", 3)
    assert await kept.store.register_version(draft("a", stated_manifest=b"other")) == (stated, False)
    assert (await kept.store.register_version(draft("a")))[0].version == 4
    assert (await kept.history.head()).revision == 5


async def test_equal_draft_is_the_same_version_and_another_conflicts(kept: Kept) -> None:
    first, _ = await kept.store.register_version(draft(version=1))
    again, created = await kept.store.register_version(draft(version=1))
    assert not created
    assert again == first
    different = (
        draft("other", version=1),
        draft(version=1, files=[file_of("content", "other.onnx")]),
        draft(version=1, files=[file_of("content"), file_of("more", "a.json")]),
        draft(version=1, stated_manifest=b"other"),
    )
    for other in different:
        with pytest.raises(ModelError) as failure:
            await kept.store.register_version(other)
        assert failure.value.entry == catalogue.MODEL_VERSION_CONFLICT
    # An archived version is still that version.
    archived = await kept.store.archive_version("acme", "m", 1)
    assert (await kept.store.register_version(draft(version=1)))[0] == archived


async def test_content_is_shared_between_versions(kept: Kept) -> None:
    first, _ = await kept.store.register_version(draft(model="a"))
    second, _ = await kept.store.register_version(draft(model="b"))
    assert first.files == second.files


async def test_drafts_of_one_version_at_once_make_one(kept: Kept) -> None:
    results = await asyncio.gather(
        *(kept.store.register_version(draft(str(number), version=1)) for number in range(6)), return_exceptions=True
    )
    made = [result for result in results if isinstance(result, tuple)]
    refused = [result for result in results if isinstance(result, ModelError)]
    assert (len(made), len(refused)) == (1, 5)
    assert (await kept.history.head()).revision == 1


async def test_absent_things_are_told_apart(kept: Kept) -> None:
    await kept.store.create_model(ModelDraft(tenant_id="acme", name="empty"))
    for tenant_id, model, entry in (
        ("acme", "empty", catalogue.MODEL_VERSION_NOT_FOUND),
        ("acme", "absent", catalogue.MODEL_NOT_FOUND),
        ("globex", "empty", catalogue.MODEL_NOT_FOUND),
    ):
        for number in (0, 1):
            with pytest.raises(ModelError) as failure:
                await kept.store.version(tenant_id, model, number)
            assert failure.value.entry == entry
        with pytest.raises(ModelError) as failure:
            await kept.store.archive_version(tenant_id, model, 1)
        assert failure.value.entry == entry
    assert list(await kept.store.versions("acme", "empty", before=10, limit=10)) == []
    with pytest.raises(ModelError):
        await kept.store.versions("globex", "empty", before=10, limit=10)


async def test_versions_are_listed_newest_first(kept: Kept) -> None:
    for number in (1, 3, 2, 10):
        await kept.store.register_version(draft(version=number))
    found = await kept.store.versions("acme", "m", before=10, limit=2)
    assert [version.version for version in found] == [3, 2]


async def test_archiving_keeps_the_first_time(kept: Kept) -> None:
    await kept.store.register_version(draft(version=1))
    archived = await kept.store.archive_version("acme", "m", 1)
    assert archived.state is VersionState.ARCHIVED
    assert archived.archive_time is not None
    assert await kept.store.archive_version("acme", "m", 1) == archived
    model = await kept.store.model("acme", "m")
    assert model is not None
    assert model.latest_version == 0
    with pytest.raises(ModelError) as failure:
        await kept.store.version("acme", "m", 0)
    assert failure.value.entry == catalogue.MODEL_VERSION_NOT_FOUND


async def test_history_numbers_each_change_once(kept: Kept) -> None:
    assert (await kept.history.head()).revision == 0
    first, _ = await kept.store.register_version(draft("a", version=1))
    await kept.store.register_version(draft("a", version=1))
    second, _ = await kept.store.register_version(draft("b", tenant_id="globex"))
    archived = await kept.store.archive_version("acme", "m", 1)
    await kept.store.archive_version("acme", "m", 1)
    head = await kept.history.head()
    assert (head.revision, head.compacted) == (3, 0)
    changes = await kept.history.changes(after_revision=0, limit=10)
    assert [(change.revision, change.version.uid) for change in changes] == [
        (1, first.uid),
        (2, second.uid),
        (3, first.uid),
    ]
    assert changes[2].version == archived
    assert [c.revision for c in await kept.history.changes(after_revision=1, limit=1)] == [2]
    snapshot = await kept.history.snapshot()
    assert (snapshot.head, list(snapshot.versions)) == (head, [second])
