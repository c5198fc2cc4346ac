"""Which calls get slots of a model that generates, and when."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from headrace_runner.execution.fair_queue import FairQueue, Waiting
from headrace_runner.execution.policy import SchedulingPolicy
from headrace_runner.execution.scheduler import Refusal

Item = TypeVar("Item", bound=Hashable)


class SlotScheduler(Generic[Item]):
    """Accounts for the slots of a model and the bounded queue before them. Pure: no time of its own, no I/O.

    An item enters when its call comes, is queued when its tokens are known, and takes all the slots that it needs at
    once. While the one whose turn it is needs more slots than are free, nobody overtakes it for want of a smaller
    need: so none waits for ever, and no two hold slots that the other waits for. `Waiting.rows` are the tokens that
    an item costs; tenants take turns by them.

    Args:
        policy: How calls wait; its own slots mean nothing here.
        slots: Completions that the model computes at the same time.

    Attributes:
        used: Slots that are taken.
    """

    def __init__(self, *, policy: SchedulingPolicy, slots: int) -> None:
        self.slots = slots
        self.used = 0
        self._policy = policy
        self._entered: dict[Item, tuple[int, int]] = {}
        self._entered_bytes = 0
        self._queue: FairQueue[Item] = FairQueue(ageing_s=policy.ageing_s)
        self._needs: dict[Item, int] = {}
        self._held: dict[Item, int] = {}

    @property
    def waiting(self) -> int:
        """Items without slots."""
        return len(self._entered) + len(self._queue)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that the queued ones cost."""
        return self._queue.rows

    @property
    def running(self) -> int:
        """Items that hold slots."""
        return len(self._held)

    def enter(self, item: Item, *, priority: int, payload_bytes: int) -> Refusal | None:
        """Takes an item in, or says why not."""
        policy = self._policy
        free = self.slots - self.used
        if self.waiting >= free:
            if self.waiting >= policy.waiting_max + free:
                return Refusal(policy.waiting_max, "calls wait")
            if self._entered_bytes + self._queue.payload_bytes + payload_bytes > policy.waiting_bytes_max:
                return Refusal(policy.waiting_bytes_max, "bytes wait")
            own_max = policy.priority_waiting_max.get(priority)
            if own_max is not None and self._of_priority(priority) >= own_max + free:
                return Refusal(own_max, f"calls of priority {priority} wait")
        self._entered[item] = (priority, payload_bytes)
        self._entered_bytes += payload_bytes
        return None

    def queue(self, waiting: Waiting[Item], *, slots: int) -> None:
        """An item that has entered waits for so many slots from now on."""
        item = waiting.item
        assert item is not None, "it has entered"
        assert slots <= self.slots, "no item needs more than there are"
        self._entered_bytes -= self._entered.pop(item)[1]
        self._needs[item] = slots
        self._queue.push(waiting)

    def start(self, now: float) -> list[Item]:
        """Gives slots to those whose turn it is; `release` or `leave` gives them back."""
        started: list[Item] = []
        while self._queue:
            head, _ = self._queue.peek(now)
            item = head.item
            assert item is not None, "the queue holds only items that wait"
            needed = self._needs[item]
            if self.used + needed > self.slots:
                break
            self._queue.take(head)
            del self._needs[item]
            self._held[item] = needed
            self.used += needed
            started.append(item)
        return started

    def release(self, item: Item) -> None:
        """One slot of an item is free again."""
        self.used -= 1
        self._held[item] -= 1
        if not self._held[item]:
            del self._held[item]

    def leave(self, item: Item) -> None:
        """An item goes, wherever it is; does nothing when it is not here any more."""
        self.used -= self._held.pop(item, 0)
        entered = self._entered.pop(item, None)
        if entered is not None:
            self._entered_bytes -= entered[1]
        elif self._queue.remove(item):
            del self._needs[item]

    def _of_priority(self, priority: int) -> int:
        entered = sum(own == priority for own, _ in self._entered.values())
        return entered + self._queue.of_priority(priority)
