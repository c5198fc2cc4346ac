"""The feed's messages, and the window that lets many watchers share one read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.quota.internal.v1 import principals_pb2 as pb
from headrace_common.revision_feed import FeedHead
from headrace_common.testing import FakeClock
from headrace_quota.memory_store import MemoryTenantStore
from headrace_quota.principal_feed_source import ChangeWindow, PrincipalFeedSource
from headrace_quota.principal_history import Change, Snapshot
from headrace_quota.tenants import TenantDraft

Message = pb.WatchPrincipalsResponse


def messages(first: int, count: int) -> list[tuple[int, Message]]:
    return [(revision, Message(revision=revision)) for revision in range(first, first + count)]


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


async def make_tenants(store: MemoryTenantStore, count: int) -> None:
    for number in range(count):
        await store.insert_tenant(TenantDraft(id=f"tenant-{number:04d}"))


@given(
    st.integers(min_value=1, max_value=10),
    st.lists(st.tuples(st.integers(min_value=1, max_value=40), st.integers(min_value=0, max_value=8)), max_size=20),
    st.integers(min_value=0, max_value=50),
    st.integers(min_value=1, max_value=50),
)
def test_window_never_shows_a_gap(capacity: int, additions: list[tuple[int, int]], after: int, limit: int) -> None:
    window = ChangeWindow(capacity=capacity)
    for first, count in additions:
        window.add(messages(first, count))
    found = [revision for revision, _ in window.after(after, limit)]
    assert found == list(range(after + 1, after + 1 + len(found)))
    assert len(found) <= min(capacity, limit)


@given(st.integers(min_value=1, max_value=20), st.integers(min_value=1, max_value=60))
def test_window_holds_the_newest_changes(capacity: int, count: int) -> None:
    window = ChangeWindow(capacity=capacity)
    for revision, message in messages(1, count):
        window.add([(revision, message)])
    kept = min(capacity, count)
    assert [revision for revision, _ in window.after(count - kept, count)] == list(range(count - kept + 1, count + 1))
    assert window.after(count - kept - 1, count) == []


def test_window_forgets_another_history() -> None:
    window = ChangeWindow()
    window.enter("a")
    window.add(messages(1, 3))
    window.enter("a")
    assert len(window.after(0, 10)) == 3
    window.enter("b")
    assert window.after(0, 10) == []


async def test_many_watchers_of_one_change_cost_one_read() -> None:
    store = MemoryTenantStore(clock=FakeClock())
    history = CountedHistory(store)
    source = PrincipalFeedSource(history=history, window=ChangeWindow())
    await source.head()
    for round_number in range(1, 4):
        await make_tenants(store, round_number)
        answers = await asyncio.gather(*(source.changes(round_number - 1, 500) for _ in range(200)))
        assert {tuple(revision for revision, _ in answer) for answer in answers} == {(round_number,)}
        assert history.reads == round_number


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 1), (500, 1), (501, 2), (1200, 3)])
async def test_snapshot_comes_in_bounded_pages_and_only_the_last_is_complete(rows: int, pages: int) -> None:
    store = MemoryTenantStore(clock=FakeClock())
    await make_tenants(store, rows)
    source = PrincipalFeedSource(history=store, window=ChangeWindow())
    sent = [message async for _, message in source.snapshot()]
    assert len(sent) == pages
    assert all(message.snapshot and message.revision == rows and message.epoch for message in sent)
    assert [message.snapshot_complete for message in sent] == [False] * (pages - 1) + [True]
    assert sum(len(message.tenants) for message in sent) == rows
    assert max(len(message.tenants) + len(message.keys) for message in sent) <= 500
