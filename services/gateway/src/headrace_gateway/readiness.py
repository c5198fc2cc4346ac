"""Whether this gateway should get traffic, and who wants to know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Readiness:
    """Serving = every feed has delivered its first snapshot and nobody has asked the process to stop.

    One event loop. A feed that breaks later does not end readiness: the gateway goes on from memory.

    Args:
        feeds: Names of the feeds that must deliver a snapshot first.
        changed: Called with the new value of `serving` whenever it changes.
    """

    def __init__(self, *, feeds: frozenset[str], changed: Callable[[bool], None]) -> None:
        self._waiting = set(feeds)
        self._changed = changed
        self._draining = False
        self._reached = asyncio.Event()

    @property
    def serving(self) -> bool:
        return not self._waiting and not self._draining

    @property
    def draining(self) -> bool:
        return self._draining

    def feed_ready(self, feed: str) -> None:
        """A feed has delivered a complete snapshot. Later snapshots change nothing."""
        before = self.serving
        self._waiting.discard(feed)
        if not self._waiting:
            self._reached.set()
        if self.serving is not before:
            self._changed(self.serving)

    async def reached(self) -> None:
        """Returns once every feed has delivered a snapshot."""
        await self._reached.wait()

    def drain(self) -> None:
        """No new calls from now on; for good. Safe to call twice."""
        before = self.serving
        self._draining = True
        if before:
            self._changed(False)
