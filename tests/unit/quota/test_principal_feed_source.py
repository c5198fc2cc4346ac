"""The feed's messages, and how many watchers share one read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from headrace_common.change_window import ChangeWindow
from headrace_common.revision_feed import FeedHead
from headrace_common.testing import FakeClock
from headrace_quota.memory_store import MemoryTenantStore
from headrace_quota.principal_feed_source import Message, PrincipalFeedSource
from headrace_quota.principal_history import Change, Snapshot
from headrace_quota.tenants import TenantDraft


class CountedHistory:
    """The twin's history, counting reads and letting other tasks run in the middle of each."""

    def __init__(self, store: MemoryTenantStore) -> None:
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


async def make_tenants(store: MemoryTenantStore, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        await store.insert_tenant(TenantDraft(id=f"tenant-{number:04d}"))


async def test_many_watchers_of_one_change_cost_one_read() -> None:
    store = MemoryTenantStore(clock=FakeClock())
    history = CountedHistory(store)
    source = PrincipalFeedSource(history=history, window=ChangeWindow[Message]())
    await source.head()
    for round_number in range(1, 4):
        await make_tenants(store, round_number)
        answers = await asyncio.gather(*(source.changes(round_number - 1, 500) for _ in range(200)))
        assert {tuple(revision for revision, _ in answer) for answer in answers} == {(round_number,)}
        assert history.reads == round_number


@pytest.mark.parametrize("known", [0, 1, 700])
async def test_changes_that_are_kept_need_no_store(known: int) -> None:
    store = MemoryTenantStore(clock=FakeClock())
    history = CountedHistory(store)
    source = PrincipalFeedSource(history=history, window=ChangeWindow[Message]())
    await make_tenants(store, known)
    await source.keep(await source.head())
    await make_tenants(store, 500, first=known)
    await source.keep(await source.head())
    reads, newest = history.reads, known + 500
    assert [revision for revision, _ in await source.changes(newest - 500, 1_000)] == [*range(newest - 499, newest + 1)]
    await source.keep(await source.head())
    assert history.reads == reads


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 1), (500, 1), (501, 2), (1200, 3)])
async def test_snapshot_comes_in_bounded_pages_and_only_the_last_is_complete(rows: int, pages: int) -> None:
    store = MemoryTenantStore(clock=FakeClock())
    await make_tenants(store, rows)
    source = PrincipalFeedSource(history=store, window=ChangeWindow[Message]())
    sent = [message async for _, message in source.snapshot()]
    assert len(sent) == pages
    assert all(message.snapshot and message.revision == rows and message.epoch for message in sent)
    assert [message.snapshot_complete for message in sent] == [False] * (pages - 1) + [True]
    assert sum(len(message.tenants) for message in sent) == rows
    assert max(len(message.tenants) + len(message.keys) for message in sent) <= 500
