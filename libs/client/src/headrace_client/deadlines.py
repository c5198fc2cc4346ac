"""Finds calls whose time is over among many that nearly always end before."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Deadlines(Generic[Item]):
    """Items by deadline, in slots of one tick: adding and removing cost the same however many there are.

    One timer for all of them costs less than a timer each. Pure: the caller tells the time. An item is reported up to
    one tick after its deadline, never before.

    Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987.
    """

    def __init__(self, *, tick_s: float) -> None:
        self._tick_s = tick_s
        self._slots: dict[int, set[Item]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, item: Item, deadline: float) -> None:
        """Puts an item in; `deadline` is a reading of the same clock that `expired` is asked with."""
        number = math.ceil(deadline / self._tick_s)
        slot = self._slots.get(number)
        if slot is None:
            self._slots[number] = {item}
        else:
            slot.add(item)

    def discard(self, item: Item, deadline: float) -> None:
        """Takes an item out that was added with this deadline; does nothing when it is not there."""
        number = math.ceil(deadline / self._tick_s)
        slot = self._slots.get(number)
        if slot is not None:
            slot.discard(item)
            if not slot:
                del self._slots[number]

    def next_at(self) -> float | None:
        """When to ask `expired` next; None while there is nothing. Costs a look at every slot."""
        return min(self._slots) * self._tick_s if self._slots else None

    def expired(self, now: float) -> list[Item]:
        """Takes out the items whose deadline is over, earliest slot first."""
        over = sorted(number for number in self._slots if number * self._tick_s <= now)
        return [item for number in over for item in self._slots.pop(number)]
