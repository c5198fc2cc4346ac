"""Items in the order in which they are served: most urgent first, but none waits for ever."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

AGEING_S = 1.0
"""Waiting for so long is worth a priority."""

Item = TypeVar("Item")


class PriorityLine(Generic[Item]):
    """A line with a place for each priority; first come, first served among equals. Every operation is O(1). Pure.

    An item becomes more urgent with time, one priority for each second, so that a stream of urgent ones can delay the
    others by at most nine seconds more than their turn takes. Priorities are 0 to 9, 9 is most urgent. An item is in
    the line once at most.
    """

    __slots__ = ("_bands", "_filled", "_length")

    def __init__(self) -> None:
        # Each item with when it came.
        self._bands: dict[int, OrderedDict[Item, float]] = {}
        # One bit for each priority that has an item.
        self._filled = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return self._length > 0

    def __iter__(self) -> Iterator[Item]:
        """The items by priority, the most urgent first. The line must not be changed before the last step."""
        for priority in sorted(self._bands, reverse=True):
            yield from self._bands[priority]

    def push(self, item: Item, priority: int, since: float = 0.0, *, front: bool = False) -> None:
        """Adds an item that came then, behind those of its priority or in front of them."""
        band = self._bands.get(priority)
        if band is None:
            band = self._bands[priority] = OrderedDict()
        band[item] = since
        if front:
            band.move_to_end(item, last=False)
        self._filled |= 1 << priority
        self._length += 1

    def remove(self, item: Item, priority: int) -> None:
        """Takes an item out that is in the line with this priority."""
        band = self._bands[priority]
        del band[item]
        self._length -= 1
        if not band:
            self._filled &= ~(1 << priority)

    def first(self) -> Item | None:
        """The item to serve next."""
        best: Item | None = None
        best_worth = 0.0
        filled = self._filled
        while filled:
            priority = filled.bit_length() - 1
            filled &= ~(1 << priority)
            item, since = next(iter(self._bands[priority].items()))
            worth = priority * AGEING_S - since
            if best is None or worth > best_worth:
                best, best_worth = item, worth
        return best

    def count(self, priority: int) -> int:
        """How many items there are of this priority."""
        band = self._bands.get(priority)
        return len(band) if band is not None else 0

    def least_urgent(self, *, below: int) -> Item | None:
        """The item to give up first, the last to come of the least urgent, if it is less urgent than `below`."""
        if not self._filled:
            return None
        lowest = (self._filled & -self._filled).bit_length() - 1
        return next(reversed(self._bands[lowest])) if lowest < below else None
