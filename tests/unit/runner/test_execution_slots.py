"""Accounting of slots and queue: nothing lost, nothing doubled, bounds kept, whatever happens in which order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace_runner.execution.slots import ExecutionSlots

WAITING_MAX = 4
BYTES_MAX = 100


class Calls(RuleBasedStateMachine):
    """Calls come, go and expire; `running` and `waiting` are what the accounts should say."""

    def __init__(self) -> None:
        super().__init__()
        self.slots: ExecutionSlots[int] = ExecutionSlots(slots=2, waiting_max=WAITING_MAX, waiting_bytes_max=BYTES_MAX)
        self.running: list[int] = []
        self.waiting: dict[int, tuple[int, float]] = {}
        self.now = 0.0
        self.next_id = 0

    @rule(payload_bytes=st.integers(0, 60), time_left=st.floats(0.1, 5))
    def enter(self, payload_bytes: int, time_left: float) -> None:
        self.next_id += 1
        room = (
            len(self.waiting) < WAITING_MAX
            and sum(size for size, _ in self.waiting.values()) + payload_bytes <= BYTES_MAX
        )
        admitted = self.slots.enter(self.next_id, payload_bytes, self.now + time_left)
        if len(self.running) < 2:
            assert admitted is True
            self.running.append(self.next_id)
        elif room:
            assert admitted is False
            self.waiting[self.next_id] = (payload_bytes, self.now + time_left)
        else:
            assert admitted is None

    @precondition(lambda self: bool(self.running))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.running.remove(data.draw(st.sampled_from(self.running)))
        following, expired = self.slots.finish(self.now)
        for item in expired:
            assert self.waiting.pop(item)[1] <= self.now
        if following is None:
            assert not self.waiting
        else:
            assert following == next(iter(self.waiting)), "first come, first served"
            assert self.waiting.pop(following)[1] > self.now
            self.running.append(following)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        item = data.draw(st.integers(0, self.next_id))
        assert self.slots.leave(item) is (self.waiting.pop(item, None) is not None)

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def accounts_are_exact(self) -> None:
        assert self.slots.running == len(self.running) <= 2
        assert self.slots.waiting == len(self.waiting) <= WAITING_MAX
        assert self.slots.waiting_bytes == sum(size for size, _ in self.waiting.values()) <= BYTES_MAX
        assert self.slots.busy is bool(self.running or self.waiting)


Calls.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestCalls = Calls.TestCase


def test_a_free_slot_is_taken_at_once_and_handed_to_the_first_that_waits() -> None:
    slots: ExecutionSlots[str] = ExecutionSlots(slots=1, waiting_max=2, waiting_bytes_max=10)
    assert slots.enter("a", 50, 9.0) is True
    assert slots.enter("b", 5, 9.0) is False
    assert slots.enter("c", 5, 9.0) is False
    assert slots.enter("d", 0, 9.0) is None
    assert slots.finish(1.0) == ("b", [])


def test_a_call_larger_than_the_queue_still_runs_when_a_slot_is_free() -> None:
    slots: ExecutionSlots[str] = ExecutionSlots(slots=1, waiting_max=0, waiting_bytes_max=0)
    assert slots.enter("a", 1 << 30, 9.0) is True
    assert slots.enter("b", 0, 9.0) is None


def test_expired_calls_are_passed_over() -> None:
    slots: ExecutionSlots[str] = ExecutionSlots(slots=1, waiting_max=9, waiting_bytes_max=9)
    slots.enter("a", 1, 9.0)
    slots.enter("late", 1, 2.0)
    slots.enter("b", 1, 9.0)
    assert slots.finish(3.0) == ("b", ["late"])
    assert slots.finish(3.0) == (None, [])
    assert not slots.busy
