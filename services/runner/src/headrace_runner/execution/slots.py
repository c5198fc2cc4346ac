"""Who may execute and who waits, for one loaded model."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


class _Waiting(NamedTuple):
    payload_bytes: int
    deadline: float


class ExecutionSlots(Generic[Item]):
    """Accounts for execution slots and a bounded queue before them, first come first served. Pure: no time, no I/O.

    Each item that enters leaves exactly once: by `leave` while it waits, by being reported as expired, or by `finish`
    after it held a slot.

    Args:
        slots: Executions at the same time, at least 1.
        waiting_max: Items that may wait.
        waiting_bytes_max: Payload bytes that waiting items may hold.
    """

    def __init__(self, *, slots: int, waiting_max: int, waiting_bytes_max: int) -> None:
        self.slots = slots
        self._waiting_max = waiting_max
        self._waiting_bytes_max = waiting_bytes_max
        self._waiting: OrderedDict[Item, _Waiting] = OrderedDict()
        self.waiting_bytes = 0
        self.running = 0

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether any item runs or waits."""
        return bool(self.running or self._waiting)

    def enter(self, item: Item, payload_bytes: int, deadline: float) -> bool | None:
        """Takes an item in.

        Returns:
            True when it holds a slot and must be started, False when it waits, None when the queue is full.
        """
        if self.running < self.slots and not self._waiting:
            self.running += 1
            return True
        if len(self._waiting) >= self._waiting_max or self.waiting_bytes + payload_bytes > self._waiting_bytes_max:
            return None
        self._waiting[item] = _Waiting(payload_bytes, deadline)
        self.waiting_bytes += payload_bytes
        return False

    def leave(self, item: Item) -> bool:
        """Takes an item out of the queue; False when it is not there, because it runs or has left."""
        waiting = self._waiting.pop(item, None)
        if waiting is None:
            return False
        self.waiting_bytes -= waiting.payload_bytes
        return True

    def finish(self, now: float) -> tuple[Item | None, list[Item]]:
        """Ends the execution of one item and hands its slot on.

        Returns:
            The item to start next, or None when the slot is free now; and those that left the queue because their
            deadline is over.
        """
        expired: list[Item] = []
        while self._waiting:
            item, waiting = self._waiting.popitem(last=False)
            self.waiting_bytes -= waiting.payload_bytes
            if waiting.deadline > now:
                return item, expired
            expired.append(item)
        self.running -= 1
        return None, expired
