"""The last changes of a feed in memory, so that many followers cost few reads of the database."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Generic, TypeVar

M = TypeVar("M")
_CAPACITY = 1_000


class ChangeWindow(Generic[M]):
    """The last changes of one history, in order and without a gap. Pure.

    Invariant: the revisions kept are consecutive, at most `capacity`, and all of one epoch.
    """

    def __init__(self, *, capacity: int = _CAPACITY) -> None:
        self._changes: deque[tuple[int, M]] = deque(maxlen=capacity)
        self._epoch = ""

    @property
    def epoch(self) -> str:
        """The history that the changes belong to."""
        return self._epoch

    @property
    def newest(self) -> int:
        """The newest revision kept; 0 without any."""
        return self._changes[-1][0] if self._changes else 0

    def enter(self, epoch: str) -> None:
        """Says which history is meant from now on; another one than before empties the window."""
        if epoch != self._epoch:
            self._changes.clear()
            self._epoch = epoch

    def after(self, revision: int, limit: int) -> list[tuple[int, M]]:
        """Up to `limit` changes that follow a revision; empty where the next one isn't kept. O(window)."""
        if not self._changes:
            return []
        skipped = revision + 1 - self._changes[0][0]
        if not 0 <= skipped < len(self._changes):
            return []
        return list(islice(self._changes, skipped, skipped + limit))

    def add(self, changes: Sequence[tuple[int, M]]) -> None:
        """Keeps what follows the newest change kept; what a straggler read of older times is left out."""
        for revision, message in changes:
            newest = self._changes[-1][0] if self._changes else None
            if newest is None or revision == newest + 1:
                self._changes.append((revision, message))
            elif revision > newest + 1:
                self._changes.clear()
                self._changes.append((revision, message))
