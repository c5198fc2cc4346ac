"""Finds what is over time among many things that nearly always end before."""

from __future__ import annotations

from typing import Generic, TypeVar

Item = TypeVar("Item")


class DeadlineWheel(Generic[Item]):
    """Items by deadline, in slots of one tick: adding and removing cost the same however many there are.

    An event loop's timer per item would cost more than the rest of a small call's bookkeeping. Pure: the caller tells
    the time and asks `expired` about once a tick; an item is reported up to two ticks after its deadline, never before.

    Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987.
    """

    def __init__(self, *, tick_s: float) -> None:
        self.tick_s = tick_s
        self._slots: dict[int, set[Item]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, item: Item, deadline: float) -> None:
        """Puts an item in; `deadline` is a reading of the same clock that `expired` is asked with."""
        slot = int(deadline / self.tick_s)
        items = self._slots.get(slot)
        if items is None:
            self._slots[slot] = {item}
        else:
            items.add(item)

    def discard(self, item: Item, deadline: float) -> None:
        """Takes an item out that was added with this deadline; does nothing when it is not there."""
        slot = int(deadline / self.tick_s)
        items = self._slots.get(slot)
        if items is not None:
            items.discard(item)
            if not items:
                del self._slots[slot]

    def expired(self, now: float) -> list[Item]:
        """Takes out the items whose deadline is over, oldest slot first."""
        over = sorted(slot for slot in self._slots if (slot + 1) * self.tick_s <= now)
        return [item for slot in over for item in self._slots.pop(slot)]
