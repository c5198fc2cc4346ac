"""Serving side of a snapshot + watch feed with gap-free revisions.

What a service adds is a `FeedSource` and, in its migration, one row that holds epoch and revision and a table of the
last changes, both visible to the service scope only. A trigger on the tables that the feed is about numbers each change
in the writing transaction: it locks the one row until commit, so that revisions become visible in order and without a
gap (a sequence would not give that), appends the change, deletes the oldest ones and notifies the channel that
`RevisionTail` listens on. The first migrations of quota and registry do so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import psycopg
import structlog
from psycopg import sql

from headrace_common.clock import Clock, SystemClock
from headrace_common.errors import HeadraceError
from headrace_common.postgres import Database

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
_CHANGES_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedHead:
    """Where a feed stands: the newest revision, and the newest one whose change is already deleted."""

    epoch: str
    revision: int
    compacted: int = 0


class FeedSource(Protocol[M_co]):
    """A feed's content. All methods raise `StorageError`s."""

    async def head(self) -> FeedHead:
        """The committed state of the counter."""
        ...

    def snapshot(self) -> AsyncIterator[tuple[int, M_co]]:
        """Pages of one consistent state, each with its revision; at least one, the last marked complete.

        Read everything before the first yield: a slow reader must not hold a transaction open.
        """
        ...

    async def changes(self, after_revision: int, limit: int) -> Sequence[tuple[int, M_co]]:
        """The next changes in order, at most `limit`."""
        ...

    def heartbeat(self, head: FeedHead) -> M_co:
        """The message that says: nothing newer than this."""
        ...


class RevisionTail:
    """Knows the newest committed revision: LISTEN tells at once, a poll each `poll_s` catches what LISTEN loses.

    Run `run()` as a guarded task. Database failures are logged and retried; `fresh` tells whether the knowledge is
    recent, so that feeds don't vouch for a state that they can't see.
    """

    def __init__(
        self,
        *,
        database: Database,
        channel: str,
        head: Callable[[], Awaitable[FeedHead]],
        clock: Clock | None = None,
        poll_s: float = 1.0,
    ) -> None:
        self._database = database
        self._channel = channel
        self._read_head = head
        self._clock = clock or SystemClock()
        self._poll_s = poll_s
        self._confirmed_at_s: float | None = None
        self._changed = asyncio.Event()
        self._log = structlog.stdlib.get_logger("revision_tail")
        self.head: FeedHead | None = None

    @property
    def fresh(self) -> bool:
        """Whether the head was confirmed within three polls."""
        return self._confirmed_at_s is not None and self._clock.monotonic() - self._confirmed_at_s < 3 * self._poll_s

    async def wait_beyond(self, revision: int, *, timeout_s: float) -> bool:
        """Waits until the head passes `revision`; False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.head is None or self.head.revision <= revision:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Follows the counter until cancelled."""
        while True:
            try:
                connection = await self._database.listen_connection()
                try:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                    while True:
                        await self.refresh()
                        async for _ in connection.notifies(timeout=self._poll_s, stop_after=1):
                            pass
                finally:
                    await connection.close()
            except (HeadraceError, psycopg.Error) as error:
                self._log.warning("feed head unknown for now", channel=self._channel, error=type(error).__name__)
                await asyncio.sleep(min(self._poll_s, 0.5))

    async def refresh(self) -> FeedHead:
        """Reads the head now and wakes who waits. Raises `StorageError`s."""
        head = await self._read_head()
        self._confirmed_at_s = self._clock.monotonic()
        if head != self.head:
            self.head = head
            self._changed.set()
            self._changed = asyncio.Event()
        return head


class RevisionFeed(Generic[M]):
    """Streams a `FeedSource` to any number of followers, each at its own pace and with no buffer of its own."""

    def __init__(self, *, source: FeedSource[M], tail: RevisionTail, heartbeat_s: float = 1.0) -> None:
        self._source = source
        self._tail = tail
        self._heartbeat_s = heartbeat_s

    async def stream(self, *, after_revision: int, epoch: str) -> AsyncIterator[M]:
        """A snapshot where the follower's place is unknown or compacted, then each change once, then heartbeats.

        While the database is out of reach nothing is sent, heartbeats included: followers see their age grow.

        Raises:
            StorageError: The first read failed; later failures are waited out.
        """
        head = await self._tail.refresh()
        place = after_revision
        if place == 0 or epoch != head.epoch or place > head.revision or place < head.compacted:
            async for revision, page in self._source.snapshot():
                place = revision
                yield page
            epoch = head.epoch
        while True:
            head = self._tail.head or head
            if head.epoch != epoch or place < head.compacted:
                return  # the follower comes back and gets a snapshot
            if place >= head.revision:
                if not await self._tail.wait_beyond(place, timeout_s=self._heartbeat_s) and self._tail.fresh:
                    yield self._source.heartbeat(FeedHead(epoch=epoch, revision=place, compacted=head.compacted))
                continue
            try:
                changes = await self._source.changes(place, _CHANGES_AT_ONCE)
            except HeadraceError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(self._heartbeat_s / 2)
                continue
            for revision, change in changes:
                if revision != place + 1:
                    return
                place = revision
                yield change
            if not changes:
                return
