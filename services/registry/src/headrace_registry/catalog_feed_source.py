"""The catalogue feed's messages, and how few reads of the database all its watchers together cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from headrace.registry.internal.v1 import catalog_pb2 as pb
from headrace_common.change_window import ChangeWindow
from headrace_common.revision_feed import FeedHead
from headrace_registry.catalog_history import CatalogHistory
from headrace_registry.messages import version_message
from headrace_registry.models import Version

Message = pb.WatchCatalogResponse

_PAGE_ROWS_MAX = 500
_PAGE_BYTES_MAX = 1 << 20
# Changes carry whole manifests, which may be large.
_CHANGES_AT_ONCE_MAX = 100


class CatalogFeedSource:
    """A `FeedSource`: whichever watcher asks first reads a change, all the others find it in the window."""

    def __init__(self, *, history: CatalogHistory, window: ChangeWindow[Message]) -> None:
        self._history = history
        self._window = window
        self._reading = asyncio.Lock()

    async def head(self) -> FeedHead:
        """Where the history stands."""
        head = await self._history.head()
        self._window.enter(head.epoch)
        return head

    async def snapshot(self) -> AsyncIterator[tuple[int, Message]]:
        """Everything that can be served, all pages with the revision of the snapshot; at least one."""
        snapshot = await self._history.snapshot()
        revision, epoch = snapshot.head.revision, snapshot.head.epoch
        page = Message(revision=revision, epoch=epoch, snapshot=True)
        for entries in _pages(snapshot.versions):
            if page.entries:
                yield revision, page
            page = Message(revision=revision, epoch=epoch, snapshot=True, entries=entries)
        page.snapshot_complete = True
        yield revision, page

    async def changes(self, after_revision: int, limit: int) -> Sequence[tuple[int, Message]]:
        """The changes that follow a revision, from the window or else from the history."""
        limit = min(limit, _CHANGES_AT_ONCE_MAX)
        known = self._window.after(after_revision, limit)
        if known:
            return known
        async with self._reading:
            known = self._window.after(after_revision, limit)
            if known:
                return known
            epoch = self._window.epoch
            found = await self._history.changes(after_revision=after_revision, limit=limit)
            changes = [
                (change.revision, Message(revision=change.revision, epoch=epoch, entries=[_entry(change.version)]))
                for change in found
            ]
            if epoch == self._window.epoch:
                self._window.add(changes)
            return changes

    def heartbeat(self, head: FeedHead) -> Message:
        """The sign of life: nothing newer than this."""
        return Message(revision=head.revision, epoch=head.epoch)


def _pages(versions: Sequence[Version]) -> Iterator[list[pb.CatalogEntry]]:
    """Entries in pages of at most 500 and about 1 MiB; one entry alone may be larger."""
    page: list[pb.CatalogEntry] = []
    page_bytes = 0
    for version in versions:
        entry = _entry(version)
        size_bytes = entry.ByteSize()
        if page and (len(page) >= _PAGE_ROWS_MAX or page_bytes + size_bytes > _PAGE_BYTES_MAX):
            yield page
            page, page_bytes = [], 0
        page.append(entry)
        page_bytes += size_bytes
    if page:
        yield page


def _entry(version: Version) -> pb.CatalogEntry:
    return pb.CatalogEntry(tenant_id=version.tenant_id, version=version_message(version))
