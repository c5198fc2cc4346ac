"""Whose turn it is among the calls of a sequence."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Call = TypeVar("Call")
Key = tuple[str, str]
"""The version's uid and the sequence."""


class SequenceOrder(Generic[Call]):
    """Lets one call of a sequence through at a time, in the order in which they came. Pure; one event loop.

    Calls may come before the first is answered. On their way to a runner they could overtake each other: they wait
    for a load, for credit, or on different lanes.
    """

    def __init__(self) -> None:
        self._lines: dict[Key, deque[Call]] = {}

    def __len__(self) -> int:
        """Sequences with open calls."""
        return len(self._lines)

    def enter(self, key: Key, call: Call) -> bool:
        """Takes a call in; False when others come first."""
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = deque((call,))
            return True
        line.append(call)
        return False

    def leave(self, key: Key, call: Call) -> Call | None:
        """The call has ended, in its turn or before; gives the one whose turn it is now instead."""
        line = self._lines[key]
        if line[0] is not call:
            line.remove(call)
            return None
        line.popleft()
        if line:
            return line[0]
        del self._lines[key]
        return None
