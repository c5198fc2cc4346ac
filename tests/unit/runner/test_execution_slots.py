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
        self.running = 0
        self.waiting: dict[int, tuple[int, float]] = {}
        self.now = 0.0
        self.next_id = 0

    @rule(payload_bytes=st.integers(0, 60), time_left=st.floats(0.1, 5))
    def enter(self, payload_bytes: int, time_left: float) -> None:
        self.next_id += 1
        free = 2 - self.running
        waits_for_a_slot = len(self.waiting) >= free
        room = len(self.waiting) < WAITING_MAX + free and (
            not waits_for_a_slot or sum(size for size, _ in self.waiting.values()) + payload_bytes <= BYTES_MAX
        )
        assert self.slots.enter(self.next_id, payload_bytes, self.now + time_left) is room
        if room:
            self.waiting[self.next_id] = (payload_bytes, self.now + time_left)

    @precondition(lambda self: self.slots.startable)
    @rule(run_max=st.integers(1, 5))
    def start(self, run_max: int) -> None:
        part = min(run_max, -(-len(self.waiting) // (2 - self.running)))
        expected = list(self.waiting)
        run, expired = self.slots.start(self.now, run_max)
        assert len(run) <= part
        assert len(run) == part or not self.slots.waiting
        for item in expired:
            assert self.waiting.pop(item)[1] <= self.now
        for item in run:
            assert self.waiting.pop(item)[1] > self.now
        assert run == [item for item in expected if item in run], "first come, first served"
        self.running += bool(run)

    @precondition(lambda self: self.running)
    @rule()
    def finish(self) -> None:
        self.slots.finish()
        self.running -= 1

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        item = data.draw(st.integers(0, self.next_id))
        assert self.slots.leave(item) is (self.waiting.pop(item, None) is not None)

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def accounts_are_exact(self) -> None:
        assert self.slots.running == self.running <= 2
        assert self.slots.waiting == len(self.waiting) <= WAITING_MAX + 2
        assert self.slots.waiting_bytes == sum(size for size, _ in self.waiting.values())
        assert self.slots.busy is bool(self.running or self.waiting)
        assert self.slots.startable is bool(self.running < 2 and self.waiting)


Calls.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestCalls = Calls.TestCase


def test_what_waits_is_shared_between_the_free_slots() -> None:
    slots: ExecutionSlots[str] = ExecutionSlots(slots=2, waiting_max=9, waiting_bytes_max=99)
    for item in "abcde":
        assert slots.enter(item, 1, 9.0)
    assert slots.start(1.0, 64) == (["a", "b", "c"], [])
    assert slots.start(1.0, 64) == (["d", "e"], [])
    assert not slots.startable


def test_a_run_is_no_longer_than_asked() -> None:
    slots: ExecutionSlots[str] = ExecutionSlots(slots=1, waiting_max=9, waiting_bytes_max=99)
    for item in "abc":
        slots.enter(item, 1, 9.0)
    assert slots.start(1.0, 1) == (["a"], [])
    slots.finish()
    assert slots.start(1.0, 2) == (["b", "c"], [])


def test_a_call_larger_than_the_queue_still_runs_when_a_slot_is_free() -> None:
    slots: ExecutionSlots[str] = ExecutionSlots(slots=1, waiting_max=0, waiting_bytes_max=0)
    assert slots.enter("a", 1 << 30, 9.0)
    assert not slots.enter("b", 0, 9.0)
    assert slots.start(1.0, 64) == (["a"], [])
    assert not slots.enter("b", 0, 9.0)


def test_expired_calls_are_passed_over() -> None:
    slots: ExecutionSlots[str] = ExecutionSlots(slots=1, waiting_max=9, waiting_bytes_max=9)
    slots.enter("late", 1, 2.0)
    slots.enter("b", 1, 9.0)
    assert slots.start(3.0, 1) == (["b"], ["late"])
    slots.finish()
    assert not slots.busy


def test_a_slot_stays_free_where_all_that_waited_have_expired() -> None:
    slots: ExecutionSlots[str] = ExecutionSlots(slots=1, waiting_max=9, waiting_bytes_max=9)
    slots.enter("late", 1, 2.0)
    assert slots.start(3.0, 1) == ([], ["late"])
    assert not slots.busy
