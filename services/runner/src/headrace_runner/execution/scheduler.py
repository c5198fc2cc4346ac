"""Which calls execute next, and together: execution slots, the queue before them, and batches."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from headrace_runner.execution.fair_queue import FairQueue, Waiting
from headrace_runner.execution.latency_fit import LatencyFit
from headrace_runner.execution.policy import SchedulingPolicy

Item = TypeVar("Item", bound=Hashable)

RUN_S = 0.001
"""A slot is given executions for about so long at once: short ones share the cost of waking its thread."""
_RUN_CALLS_MAX = 256
# A fit that nothing has renewed for so long refuses no call: the machine may have become faster since.
_FIT_FRESH_S = 1.0


class Refusal(NamedTuple):
    """Why the queue takes no more, and the limit that is reached."""

    limit: int
    what: str


class Run(NamedTuple, Generic[Item]):
    """What a slot executes one after another, and what left the queue because it came too late for its deadline."""

    batches: list[list[Item]]
    late: list[Item]


class Scheduler(Generic[Item]):
    """Accounts for execution slots and the bounded queue before them, and fills free slots. Pure: no time, no I/O.

    Each item that enters leaves exactly once: by `leave` while it waits, or by `start`, as part of a batch or as one
    that is late. `finish` must follow each `start` that gave batches.

    A slot that is free takes what is most urgent and fills its execution with what may share it, as long as that pays,
    so a busy replica batches without waiting. With a queue delay, a free slot waits for company until the batch has its
    full or a preferred size, or the delay is over, or the earliest deadline leaves just time to execute.
    """

    def __init__(self, *, policy: SchedulingPolicy) -> None:
        self.policy = policy
        self.fit = LatencyFit()
        self.running = 0
        self.wake_at: float | None = None
        self._queue: FairQueue[Item] = FairQueue(ageing_s=policy.ageing_s)
        self._observed_at = float("-inf")

    @property
    def slots(self) -> int:
        """Executions at the same time."""
        return self.policy.slots

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        """Payload bytes that they hold."""
        return self._queue.payload_bytes

    @property
    def busy(self) -> bool:
        """Whether any item runs or waits."""
        return bool(self.running or self._queue)

    def enter(self, waiting: Waiting[Item]) -> Refusal | None:
        """Takes an item in, or says why not."""
        policy, queue = self.policy, self._queue
        free = policy.slots - self.running
        if len(queue) >= free:
            if len(queue) >= policy.waiting_max + free:
                return Refusal(policy.waiting_max, "calls wait")
            if queue.payload_bytes + waiting.payload_bytes > policy.waiting_bytes_max:
                return Refusal(policy.waiting_bytes_max, "bytes wait")
            own_max = policy.priority_waiting_max.get(waiting.priority)
            if own_max is not None and queue.of_priority(waiting.priority) >= own_max + free:
                return Refusal(own_max, f"calls of priority {waiting.priority} wait")
        queue.push(waiting)
        return None

    def leave(self, item: Item) -> bool:
        """Takes an item out of the queue; False when it is not there, because it runs or has left."""
        return self._queue.remove(item)

    def needed_s(self, rows: int, now: float) -> float:
        """The least time in which an execution of so many rows can be done, 0 when that isn't known."""
        fresh = now - self._observed_at < _FIT_FRESH_S
        return self.fit.at_least(rows) if fresh else 0.0

    def start(self, now: float) -> Run[Item] | None:
        """Gives a free slot its run; None when no slot is free or nothing waits.

        A run without batches means that nothing is to be executed now: what waits was late, or may wait for company;
        then `wake_at` says when to ask again, which otherwise is None.
        """
        self.wake_at = None
        if self.running >= self.policy.slots or not self._queue:
            return None
        rows_max = self._rows_max()
        batches: list[list[Item]] = []
        late: list[Item] = []
        calls, planned_s = 0, 0.0
        while self._queue:
            head, oldest_s = self._queue.peek(now)
            if not batches and self._may_wait(head, oldest_s, now):
                full = self._full_head()
                if full is None:
                    break
                head = full
            room = self._room(head, rows_max, now)
            if not room:
                self._drop(head, late)
                continue
            if batches and (calls >= _RUN_CALLS_MAX or planned_s + self.fit.predict(head.rows) > RUN_S):
                break
            batch, rows = self._fill(head, room, now)
            batches.append(batch)
            calls += len(batch)
            rows_max -= rows
            planned_s += self.fit.predict(rows)
            if not self.fit.known or rows_max <= 0:
                break
        if batches:
            self.running += 1
            self.wake_at = None
        return Run(batches, late)

    def observe(self, rows: int, seconds: float, now: float) -> None:
        """An execution of so many rows took so long."""
        self.fit.observe(rows, seconds)
        self._observed_at = now

    def finish(self) -> None:
        """A run has ended; its slot is free."""
        self.running -= 1

    def _rows_max(self) -> int:
        """Rows for one slot: its fair part of what waits, unless that is too little to be worth a second thread."""
        rows = self._queue.rows
        free = self.policy.slots - self.running
        if free > 1 and not self.policy.sized and self.fit.predict(rows) > RUN_S:
            return -(-rows // free)
        return rows

    def _room(self, head: Waiting[Item], rows_max: int, now: float) -> int:
        """Rows for an execution with this head; 0 where it can't be in time for it.

        Where more waits than one execution takes, the head must bear a full one: making each one smaller for the sake
        of the call that is nearly late would leave all calls behind it late, too.
        """
        rows = head.rows
        if head.group is not None:
            waiting = self._queue.rows_of(head.group)
            rows = max(rows, min(self._good_size(waiting), rows_max))
            if waiting <= self.policy.batch_rows:
                rows = max(head.rows, min(rows, self._rows_in_time(head, now)))
        return rows if now + self.needed_s(rows, now) < head.deadline else 0

    def _rows_in_time(self, head: Waiting[Item], now: float) -> int:
        per_row_s = self.needed_s(2, now) - self.needed_s(1, now)
        if per_row_s <= 0:
            return self.policy.batch_rows
        return int((head.deadline - now - self.needed_s(0, now)) / per_row_s)

    def _good_size(self, rows: int) -> int:
        """Rows for a batch of which so many are there: the largest good size that they fill, or all of them.

        Where the manifest names no sizes, the fit does: rows beyond those that pay would only make all of them late.
        """
        policy = self.policy
        if rows >= policy.batch_rows:
            rows = policy.batch_rows
        elif policy.preferred:
            return max((size for size in policy.preferred if size <= rows), default=rows)
        return rows if policy.sized else max(1, int(min(rows, self.fit.rows_that_pay())))

    def _fill(self, head: Waiting[Item], room: int, now: float) -> tuple[list[Item], int]:
        """Takes the head and what may share its execution and is in time with it."""
        queue = self._queue
        batch = [_item(head)]
        rows = head.rows
        queue.take(head)
        if head.group is not None:
            done_at = now + self.needed_s(room, now)
            while rows < room and (other := queue.next_of(head.group, room - rows)) is not None:
                if other.deadline <= done_at:
                    # It gets its own turn, and is judged then.
                    break
                batch.append(_item(other))
                rows += other.rows
                queue.take(other)
        return batch, rows

    def _drop(self, waiting: Waiting[Item], late: list[Item]) -> None:
        late.append(_item(waiting))
        self._queue.remove(late[-1])

    def _may_wait(self, head: Waiting[Item], oldest_s: float, now: float) -> bool:
        policy = self.policy
        if policy.delay_s <= 0 or head.group is None or self._is_full(self._queue.rows_of(head.group)):
            return False
        # As late as the whole batch can begin and still be in time for the most urgent of it.
        latest = head.deadline - 2 * self.fit.predict(policy.batch_rows)
        wake_at = min(oldest_s + policy.delay_s, latest)
        if wake_at <= now:
            return False
        self.wake_at = wake_at
        return True

    def _full_head(self) -> Waiting[Item] | None:
        """The first of another group, of which enough waits for an execution."""
        for group in self._queue.groups():
            if group is not None and self._is_full(self._queue.rows_of(group)):
                return self._queue.next_of(group, self._queue.rows)
        return None

    def _is_full(self, rows: int) -> bool:
        policy = self.policy
        return rows >= policy.batch_rows or bool(policy.preferred and rows >= policy.preferred[0])


def _item(waiting: Waiting[Item]) -> Item:
    item = waiting.item
    assert item is not None, "the queue holds only items that wait"
    return item
