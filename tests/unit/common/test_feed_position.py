"""What a follower makes of a feed's messages, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_common.errors import RouteUnavailable
from headrace_common.feed_follower import FeedEvent, FeedEventKind, FeedFollower, FeedPosition
from headrace_common.testing import FakeClock

PAGE, COMPLETE = FeedEventKind.SNAPSHOT_PAGE, FeedEventKind.SNAPSHOT_COMPLETE
CHANGE, HEARTBEAT = FeedEventKind.CHANGE, FeedEventKind.HEARTBEAT
events = st.builds(
    FeedEvent, kind=st.sampled_from(FeedEventKind), revision=st.integers(0, 6), epoch=st.sampled_from(["e", "f"])
)


def event(kind: FeedEventKind, revision: int, epoch: str = "e") -> FeedEvent:
    return FeedEvent(kind=kind, revision=revision, epoch=epoch)


@given(st.lists(events, max_size=40))
def test_no_revision_is_skipped_or_applied_twice(received: list[FeedEvent]) -> None:
    position = FeedPosition()
    applied: list[int] = []
    for each in received:
        if not position.accept(each):
            assert (each.epoch, each.revision) != (position.epoch, position.revision + (each.kind is CHANGE))
            position.forget()
            applied.clear()
        elif each.kind is COMPLETE:
            applied = [each.revision]
        elif each.kind is CHANGE:
            applied.append(each.revision)
        if applied:
            assert applied == list(range(applied[0], position.revision + 1))


def test_a_heartbeat_ahead_of_us_shows_a_loss() -> None:
    position = FeedPosition()
    assert position.accept(event(COMPLETE, 3))
    assert position.accept(event(HEARTBEAT, 3))
    assert not position.accept(event(HEARTBEAT, 4))
    assert not position.accept(event(HEARTBEAT, 3, "f"))


class Script:
    """Streams that a test lays out, one list of events for each connection."""

    def __init__(self, *streams: Sequence[FeedEvent | Exception]) -> None:
        self.streams = list(streams)
        self.asked: list[tuple[int, str]] = []
        self.snapshots: list[list[FeedEvent]] = []
        self.changes: list[int] = []
        self.over = asyncio.Event()
        self.clock = FakeClock()
        self.follower = FeedFollower(
            name="script",
            open_stream=self.open,
            read=lambda received: received,
            apply_snapshot=lambda pages: self.snapshots.append(list(pages)),
            apply_change=lambda change: self.changes.append(change.revision),
            clock=self.clock,
            backoff_max_s=0,
        )

    async def open(self, revision: int, epoch: str) -> AsyncIterator[FeedEvent]:
        self.asked.append((revision, epoch))
        for each in self.streams.pop(0) if self.streams else ():
            if isinstance(each, Exception):
                raise each
            yield each
        if not self.streams:
            self.over.set()
            await asyncio.Event().wait()

    async def play(self) -> None:
        running = asyncio.ensure_future(self.follower.run())
        over = asyncio.ensure_future(self.over.wait())
        await asyncio.wait({running, over}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        over.cancel()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if running.done() and not running.cancelled() and (error := running.exception()) is not None:
            raise error


async def test_a_broken_stream_is_resumed_where_it_ended() -> None:
    script = Script(
        [event(PAGE, 5), event(COMPLETE, 5), event(CHANGE, 6), RouteUnavailable("gone")],
        [event(CHANGE, 7), event(HEARTBEAT, 7)],
    )
    await script.play()
    assert script.asked == [(0, ""), (6, "e")]
    assert script.changes == [6, 7]
    assert [len(pages) for pages in script.snapshots] == [2]
    assert script.follower.ready.is_set()


async def test_a_gap_asks_for_a_snapshot() -> None:
    script = Script([event(COMPLETE, 5), event(CHANGE, 7)], [event(COMPLETE, 7)])
    await script.play()
    assert script.asked == [(0, ""), (0, "")]
    assert script.changes == []
    assert script.follower.revision == 7


async def test_half_a_snapshot_is_never_applied() -> None:
    script = Script([event(PAGE, 5), RouteUnavailable("gone")], [event(PAGE, 6), event(COMPLETE, 6)])
    await script.play()
    assert [[page.revision for page in pages] for pages in script.snapshots] == [[6, 6]]


async def test_age_counts_from_the_last_word_of_the_source() -> None:
    script = Script([event(COMPLETE, 5), event(HEARTBEAT, 5)])
    assert script.follower.age_s == float("inf")
    assert not script.follower.ready.is_set()
    await script.play()
    script.clock.advance(7)
    assert script.follower.age_s == 7


async def test_a_defect_in_applying_ends_the_follower() -> None:
    script = Script([event(COMPLETE, 5), event(CHANGE, 6)])

    def broken(change: FeedEvent) -> None:
        raise LookupError(change.revision)

    script.follower._apply_change = broken
    with pytest.raises(LookupError):
        await script.play()
