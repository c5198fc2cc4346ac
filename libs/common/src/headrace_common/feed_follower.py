"""Following side of a snapshot + watch feed: keeps a copy in memory current and knows how old it is."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from headrace_common.clock import Clock, SystemClock
from headrace_common.errors import HeadraceError

M = TypeVar("M")


class FeedEventKind(enum.Enum):
    """What a feed's message is."""

    SNAPSHOT_PAGE = "snapshot page"
    SNAPSHOT_COMPLETE = "snapshot complete"
    CHANGE = "change"
    HEARTBEAT = "heartbeat"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEvent:
    """The feed's own part of a message. `SNAPSHOT_COMPLETE` marks the last page, which may carry rows too."""

    kind: FeedEventKind
    revision: int
    epoch: str


class FeedPosition:
    """Decides what a message means for the copy. Pure: no I/O, no clock.

    Invariant: after `accept` returned True for a change, every revision up to `revision` has been applied exactly once.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.epoch = ""

    def accept(self, event: FeedEvent) -> bool:
        """Whether the message fits; False means that something was missed and a snapshot is needed.

        A page fits always; a change only as the next revision of the same epoch; a heartbeat only at our revision.
        """
        match event.kind:
            case FeedEventKind.SNAPSHOT_PAGE:
                return True
            case FeedEventKind.SNAPSHOT_COMPLETE:
                self.revision, self.epoch = event.revision, event.epoch
                return True
            case FeedEventKind.CHANGE:
                if event.epoch != self.epoch or event.revision != self.revision + 1:
                    return False
                self.revision = event.revision
                return True
            case FeedEventKind.HEARTBEAT:
                return event.epoch == self.epoch and event.revision == self.revision

    def forget(self) -> None:
        """Asks for a snapshot next time."""
        self.revision, self.epoch = 0, ""


class FeedFollower(Generic[M]):
    """Follows one feed for as long as `run()` runs.

    Args:
        name: For the log.
        open_stream: Opens the feed after a revision of an epoch (0 and "" ask for a snapshot); `Caller.stream` fits.
        read: The feed's part of a message.
        apply_snapshot: Replaces the copy by these pages, in one step without awaiting.
        apply_change: Applies one change, in one step without awaiting.
        silence_max_s: A stream without any message for so long counts as broken.
    """

    def __init__(
        self,
        *,
        name: str,
        open_stream: Callable[[int, str], AsyncIterable[M]],
        read: Callable[[M], FeedEvent],
        apply_snapshot: Callable[[Sequence[M]], None],
        apply_change: Callable[[M], None],
        clock: Clock | None = None,
        silence_max_s: float = 4.0,
        backoff_max_s: float = 2.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.ready = asyncio.Event()
        self._name = name
        self._open_stream = open_stream
        self._read = read
        self._apply_snapshot = apply_snapshot
        self._apply_change = apply_change
        self._clock = clock or SystemClock()
        self._silence_max_s = silence_max_s
        self._backoff_max_s = backoff_max_s
        self._jitter = jitter
        self._position = FeedPosition()
        self._current_at_s: float | None = None
        self._log = structlog.stdlib.get_logger("feed")

    @property
    def revision(self) -> int:
        """The newest revision in the copy; 0 before the first snapshot."""
        return self._position.revision

    @property
    def age_s(self) -> float:
        """Seconds since the copy was last known to be current; infinite before the first snapshot."""
        return float("inf") if self._current_at_s is None else self._clock.monotonic() - self._current_at_s

    async def run(self) -> None:
        """Follows until cancelled; reconnects with backoff. An exception of `apply_*` is a defect and ends it."""
        failures = 0
        while True:
            before = self._current_at_s
            try:
                await self._follow()
                problem = "ended"
            except HeadraceError as error:
                problem = error.reason
            except TimeoutError:
                problem = f"silent for {self._silence_max_s:g} s"
            failures = 0 if self._current_at_s != before else failures + 1
            pause_s = min(0.05 * 2 ** min(failures, 10), self._backoff_max_s) * (0.5 + self._jitter() / 2)
            self._log.warning("feed interrupted", feed=self._name, problem=problem, retry_in_s=round(pause_s, 3))
            await asyncio.sleep(pause_s)

    async def _follow(self) -> None:
        pages: list[M] = []
        stream: Any = self._open_stream(self._position.revision, self._position.epoch)
        async with aclosing(stream):
            messages = aiter(stream)
            while True:
                try:
                    async with asyncio.timeout(self._silence_max_s):
                        message: M = await anext(messages)
                except StopAsyncIteration:
                    return
                if not self._take(message, pages):
                    self._position.forget()
                    return

    def _take(self, message: M, pages: list[M]) -> bool:
        event = self._read(message)
        if not self._position.accept(event):
            self._log.warning("feed has a gap", feed=self._name, at=self._position.revision, got=event.revision)
            return False
        if event.kind in (FeedEventKind.SNAPSHOT_PAGE, FeedEventKind.SNAPSHOT_COMPLETE):
            pages.append(message)
            if event.kind is FeedEventKind.SNAPSHOT_PAGE:
                return True
            self._apply_snapshot(pages)
            pages.clear()
            self.ready.set()
        elif event.kind is FeedEventKind.CHANGE:
            self._apply_change(message)
        self._current_at_s = self._clock.monotonic()
        return True
