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

    Each item that enters leaves exactly once: by `leave` while it waits, or by `start`, as one of a run that a slot
    executes one after another or as one that has expired.

    Args:
        slots: Runs at the same time, at least 1.
        waiting_max: Items that may wait beside one for each free slot.
        waiting_bytes_max: Payload bytes that waiting items may hold, unless there is only one.
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

    @property
    def startable(self) -> bool:
        """Whether something waits and a slot is free."""
        return bool(self._waiting) and self.running < self.slots

    def enter(self, item: Item, payload_bytes: int, deadline: float) -> bool:
        """Takes an item in; False when the queue is full."""
        waiting = len(self._waiting)
        free = self.slots - self.running
        if waiting >= self._waiting_max + free:
            return False
        if waiting >= free and self.waiting_bytes + payload_bytes > self._waiting_bytes_max:
            return False
        self._waiting[item] = _Waiting(payload_bytes, deadline)
        self.waiting_bytes += payload_bytes
        return True

    def leave(self, item: Item) -> bool:
        """Takes an item out of the queue; False when it is not there, because it runs or has left."""
        waiting = self._waiting.pop(item, None)
        if waiting is None:
            return False
        self.waiting_bytes -= waiting.payload_bytes
        return True

    def start(self, now: float, run_max: int) -> tuple[list[Item], list[Item]]:
        """Gives a free slot its fair part of what waits, at most `run_max` items; asked only when `startable`.

        Returns:
            The items to execute one after another, none where all that waited have expired and the slot stays free;
            and those that left the queue because their deadline is over.
        """
        run: list[Item] = []
        expired: list[Item] = []
        part = min(run_max, -(-len(self._waiting) // (self.slots - self.running)))
        while self._waiting and len(run) < part:
            item, waiting = self._waiting.popitem(last=False)
            self.waiting_bytes -= waiting.payload_bytes
            (run if waiting.deadline > now else expired).append(item)
        if run:
            self.running += 1
        return run, expired

    def finish(self) -> None:
        """A run has ended; its slot is free."""
        self.running -= 1
