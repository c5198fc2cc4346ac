"""Which calls get slots of a model that generates, and when."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace_runner.execution.fair_queue import FairQueue, Waiting
from headrace_runner.execution.policy import SchedulingPolicy
from headrace_runner.execution.scheduler import Refusal

Item = TypeVar("Item", bound=Hashable)


@dataclass(slots=True)
class _Need:
    """What an item needs, or holds: slots, and tokens of the prompt in all of them that are not computed."""

    slots: int
    prompt_tokens: int


class SlotScheduler(Generic[Item]):
    """Accounts for the slots of a model and the bounded queue before them. Pure: no time of its own, no I/O.

    An item enters when its call comes, is queued when its tokens are known, and takes all the slots that it needs at
    once, when what is left of the prompts that are being computed leaves room for its own: more of them would only be
    late together, in an order that the model finds, and here the most urgent is next. While the one whose turn it is
    needs more than is free, nobody overtakes it for want of a smaller need: so none waits for ever, and no two hold
    slots that the other waits for. `Waiting.rows` are the tokens that an item costs; tenants take turns by them.

    Args:
        policy: How calls wait; its own slots mean nothing here.
        slots: Completions that the model computes at the same time.
        prompt_tokens_max: Tokens of prompts that it computes at the same time; an item that has more does so alone.

    Attributes:
        used: Slots that are taken.
        prompt_tokens: Those that are left of the prompts that are being computed.
    """

    def __init__(self, *, policy: SchedulingPolicy, slots: int, prompt_tokens_max: int) -> None:
        self.slots = slots
        self.used = 0
        self.prompt_tokens = 0
        self._prompt_tokens_max = prompt_tokens_max
        self._policy = policy
        self._entered: dict[Item, tuple[int, int]] = {}
        self._entered_bytes = 0
        self._queue: FairQueue[Item] = FairQueue(ageing_s=policy.ageing_s)
        self._needs: dict[Item, _Need] = {}
        self._held: dict[Item, _Need] = {}

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

    def queue(self, waiting: Waiting[Item], *, slots: int, prompt_tokens: int) -> None:
        """An item that has entered waits from now on for so many slots, to compute its prompt in each."""
        item = waiting.item
        assert item is not None, "it has entered"
        assert slots <= self.slots, "no item needs more than there are"
        self._entered_bytes -= self._entered.pop(item)[1]
        self._needs[item] = _Need(slots, slots * prompt_tokens)
        self._queue.push(waiting)

    def start(self, now: float) -> list[Item]:
        """Gives slots to those whose turn it is; `release` or `leave` gives them back."""
        started: list[Item] = []
        while self._queue:
            head, _ = self._queue.peek(now)
            item = head.item
            assert item is not None, "the queue holds only items that wait"
            if not self._has_room(self._needs[item]):
                break
            self._queue.take(head)
            held = self._held[item] = self._needs.pop(item)
            self.used += held.slots
            self.prompt_tokens += held.prompt_tokens
            started.append(item)
        return started

    def computed(self, item: Item, prompt_tokens: int) -> None:
        """One slot of an item that holds some has so many more tokens of the prompt."""
        held = self._held[item]
        held.prompt_tokens -= prompt_tokens
        self.prompt_tokens -= prompt_tokens

    def release(self, item: Item) -> None:
        """One slot of an item is free again."""
        held = self._held[item]
        held.slots -= 1
        self.used -= 1
        if not held.slots:
            self.prompt_tokens -= held.prompt_tokens
            del self._held[item]

    def leave(self, item: Item) -> None:
        """An item goes, wherever it is; does nothing when it is not here any more."""
        held = self._held.pop(item, None)
        if held is not None:
            self.used -= held.slots
            self.prompt_tokens -= held.prompt_tokens
            return
        entered = self._entered.pop(item, None)
        if entered is not None:
            self._entered_bytes -= entered[1]
        elif self._queue.remove(item):
            del self._needs[item]

    def _has_room(self, need: _Need) -> bool:
        fits = not self.prompt_tokens or self.prompt_tokens + need.prompt_tokens <= self._prompt_tokens_max
        return fits and self.used + need.slots <= self.slots

    def _of_priority(self, priority: int) -> int:
        entered = sum(own == priority for own, _ in self._entered.values())
        return entered + self._queue.of_priority(priority)
