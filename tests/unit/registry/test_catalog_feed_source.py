"""The feed's messages: pages that are bounded in rows and bytes, and reads that watchers share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common.change_window import ChangeWindow
from headrace_common.revision_feed import FeedHead
from headrace_common.testing import FakeClock
from headrace_registry.catalog_feed_source import CatalogFeedSource, Message
from headrace_registry.catalog_history import CatalogHistory, Change, Snapshot
from headrace_registry.memory_store import MemoryRegistryStore
from support.registry_drafts import MANIFEST, draft


class CountedHistory:
    """The twin's history, counting reads and letting other tasks run in the middle of each."""

    def __init__(self, store: MemoryRegistryStore) -> None:
        self._store = store
        self.reads = 0

    async def head(self) -> FeedHead:
        return await self._store.head()

    async def changes(self, *, after_revision: int, limit: int) -> Sequence[Change]:
        self.reads += 1
        await asyncio.sleep(0)
        return await self._store.changes(after_revision=after_revision, limit=limit)

    async def snapshot(self) -> Snapshot:
        return await self._store.snapshot()


def source_of(history: CatalogHistory) -> CatalogFeedSource:
    return CatalogFeedSource(history=history, window=ChangeWindow[Message]())


async def register(store: MemoryRegistryStore, count: int, manifest: Manifest = MANIFEST) -> None:
    for number in range(count):
        await store.register_version(draft(str(number), manifest=manifest))


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 1), (500, 1), (501, 2), (1200, 3)])
async def test_snapshot_comes_in_bounded_pages_and_only_the_last_is_complete(rows: int, pages: int) -> None:
    store = MemoryRegistryStore(clock=FakeClock())
    await register(store, rows)
    sent = [message async for _, message in source_of(store).snapshot()]
    assert len(sent) == pages
    assert all(message.snapshot and message.revision == rows and message.epoch for message in sent)
    assert [message.snapshot_complete for message in sent] == [False] * (pages - 1) + [True]
    assert [entry.version.version for message in sent for entry in message.entries] == list(range(1, rows + 1))


async def test_large_manifests_make_more_pages() -> None:
    store = MemoryRegistryStore(clock=FakeClock())
    large = Manifest(class_labels=["x" * 256] * 2_000)
    await register(store, 5, large)
    sent = [message async for _, message in source_of(store).snapshot()]
    assert sum(len(message.entries) for message in sent) == 5
    assert all(message.ByteSize() < 2 << 20 for message in sent)
    assert len(sent) >= 3


async def test_many_watchers_of_one_change_cost_one_read() -> None:
    store = MemoryRegistryStore(clock=FakeClock())
    history = CountedHistory(store)
    source = source_of(history)
    await source.head()
    for revision in range(1, 4):
        await store.register_version(draft(str(revision)))
        answers = await asyncio.gather(*(source.changes(revision - 1, 500) for _ in range(200)))
        assert {tuple(number for number, _ in answer) for answer in answers} == {(revision,)}
        assert history.reads == revision


async def test_change_carries_the_version_and_its_owner() -> None:
    store = MemoryRegistryStore(clock=FakeClock())
    source = source_of(store)
    head = await source.head()
    await register(store, 1)
    ((revision, message),) = await source.changes(0, 500)
    assert (revision, message.revision, message.epoch) == (1, 1, head.epoch)
    (entry,) = message.entries
    assert (entry.tenant_id, entry.version.model, entry.version.version) == ("acme", "m", 1)
    assert not source.heartbeat(head).entries
