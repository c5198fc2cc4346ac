"""Slots, the bounded queue before them, and what shares an execution."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace_runner.execution.fair_queue import Waiting
from headrace_runner.execution.policy import SchedulingPolicy
from headrace_runner.execution.scheduler import Refusal, Run, Scheduler


def scheduler(**policy: Any) -> Scheduler[int]:
    values: dict[str, Any] = {"waiting_max": 1_000, "waiting_bytes_max": 1 << 20, "batch_rows": 8, **policy}
    return Scheduler(policy=SchedulingPolicy(**values))


def call(
    item: int,
    *,
    group: str | None = "g",
    rows: int = 1,
    deadline: float = 1e6,
    entered: float = 0.0,
    priority: int = 5,
    payload_bytes: int = 10,
) -> Waiting[int]:
    return Waiting(item, "a", priority, group, rows, payload_bytes, deadline, entered)


def enter(scheduler: Scheduler[int], *calls: Waiting[int]) -> None:
    for each in calls:
        assert scheduler.enter(each) is None


def started(scheduler: Scheduler[int], now: float = 0.0) -> Run[int]:
    run = scheduler.start(now)
    assert run is not None
    return run


def test_what_waits_fills_one_execution_up_to_the_limit() -> None:
    full = scheduler()
    enter(full, *(call(index) for index in range(10)))
    assert started(full).batches == [[*range(8)]]
    assert full.start(0.0) is None
    full.finish()
    assert started(full).batches == [[8, 9]]


def test_different_groups_never_share_an_execution() -> None:
    mixed = scheduler()
    enter(mixed, call(1, group="x"), call(2, group="y"), call(3, group="x"), call(4, group=None), call(5, group=None))
    batches: list[list[int]] = []
    while mixed.waiting:
        batches += started(mixed).batches
        mixed.finish()
    assert sorted(map(sorted, batches)) == [[1, 3], [2], [4], [5]]


def test_a_call_larger_than_a_batch_executes_alone() -> None:
    one = scheduler()
    enter(one, call(1, rows=20), call(2))
    assert started(one).batches == [[1]]


def test_short_executions_share_a_turn_of_the_thread() -> None:
    short = scheduler(batch_rows=1)
    short.observe(1, 0.00009, 0.0)
    enter(short, *(call(index) for index in range(30)))
    assert [len(batch) for batch in started(short).batches] == [1] * 11


def test_long_executions_are_shared_out_over_free_slots() -> None:
    two = scheduler(slots=2)
    for rows in (1, 8):
        two.observe(rows, 0.01 * rows + 0.1, 0.0)
    enter(two, *(call(index) for index in range(6)))
    assert [started(two).batches, started(two).batches] == [[[0, 1, 2]], [[3, 4, 5]]]


def test_a_free_slot_waits_for_company_only_as_long_as_the_delay() -> None:
    patient = scheduler(delay_s=0.5)
    enter(patient, call(1))
    assert started(patient).batches == []
    assert patient.wake_at == 0.5
    enter(patient, call(2, entered=0.2))
    assert started(patient, 0.5).batches == [[1, 2]]
    assert patient.wake_at is None


@pytest.mark.parametrize("rows", [4, 8])
def test_a_good_size_waits_no_longer(rows: int) -> None:
    patient = scheduler(delay_s=0.5, preferred=(4,))
    enter(patient, *(call(index) for index in range(rows)))
    assert [len(batch) for batch in started(patient).batches] == [rows]


def test_a_preferred_size_is_taken_out_of_more() -> None:
    some = scheduler(preferred=(2, 4))
    enter(some, *(call(index) for index in range(7)))
    assert started(some).batches == [[0, 1, 2, 3]]


def test_a_batch_is_not_made_larger_than_pays() -> None:
    linear = scheduler()
    for rows in (1, 8, 1, 8):
        linear.observe(rows, 0.01 * rows, 0.0)
    enter(linear, *(call(index) for index in range(6)))
    assert started(linear).batches == [[0]]


def test_a_deadline_shortens_the_wait_by_what_the_execution_takes() -> None:
    patient = scheduler(delay_s=10.0)
    patient.observe(8, 0.1, 0.0)
    enter(patient, call(1, deadline=1.0))
    assert started(patient).batches == []
    assert patient.wake_at == pytest.approx(0.8)
    assert started(patient, 0.8).batches == [[1]]


def test_calls_that_can_not_meet_their_deadline_are_not_begun() -> None:
    busy = scheduler()
    busy.observe(1, 0.5, 0.0)
    enter(busy, call(1, deadline=0.4), call(2, deadline=2.0))
    run = started(busy)
    assert (run.batches, run.late) == ([[2]], [1])
    assert busy.needed_s(1, 0.0) == pytest.approx(0.5)


def test_an_old_fit_refuses_nobody() -> None:
    slow_once = scheduler()
    slow_once.observe(1, 60.0, 0.0)
    assert slow_once.needed_s(1, 0.5) > 0
    assert slow_once.needed_s(1, 2.0) == 0
    enter(slow_once, call(1, deadline=3.0))
    assert started(slow_once, 2.0).batches == [[1]]


def test_the_queue_is_bounded_by_calls_bytes_and_priority() -> None:
    small = scheduler(waiting_max=3, waiting_bytes_max=100, priority_waiting_max={2: 1})
    enter(small, call(0))
    started(small)
    enter(small, call(1, priority=2))
    assert small.enter(call(2, priority=2)) == Refusal(1, "calls of priority 2 wait")
    assert small.enter(call(3, payload_bytes=91)) == Refusal(100, "bytes wait")
    enter(small, call(4), call(5))
    refusal = small.enter(call(6))
    assert refusal is not None
    assert refusal.limit == 3


def test_one_call_of_any_size_may_wait_for_a_free_slot() -> None:
    none = scheduler(waiting_max=0, waiting_bytes_max=0)
    enter(none, call(1, payload_bytes=1 << 30))
    assert none.enter(call(2)) is not None


def test_a_batch_waits_no_longer_than_for_the_smallest_good_size() -> None:
    patient = scheduler(delay_s=0.5, preferred=(4,))
    enter(patient, *(call(index) for index in range(5)))
    assert [len(batch) for batch in started(patient).batches] == [4]


def test_what_was_gathered_is_not_split_over_slots() -> None:
    two = scheduler(slots=2, delay_s=0.5)
    for rows in (1, 8):
        two.observe(rows, 0.1 + 0.01 * rows, 0.0)
    enter(two, *(call(index) for index in range(8)))
    assert [len(batch) for batch in started(two).batches] == [8]


def test_a_full_batch_does_not_wait_behind_another_group() -> None:
    patient = scheduler(delay_s=0.5)
    enter(patient, call(0, group="x", priority=9), *(call(index, group="y") for index in range(1, 9)))
    assert started(patient).batches[0] == [*range(1, 9)]


def test_a_call_with_little_time_gets_a_smaller_batch_while_there_is_no_backlog() -> None:
    few = scheduler()
    for rows in (1, 8, 1, 8):
        few.observe(rows, 0.1 + 0.01 * rows, 0.0)
    enter(few, call(0, deadline=0.15), *(call(index, deadline=9.0) for index in range(1, 7)))
    (batch,) = started(few).batches
    assert 0 in batch
    assert len(batch) < 7


@pytest.mark.parametrize("load", [0.8, 1.2, 5.0])
def test_overload_does_not_make_the_model_compute_what_comes_too_late(load: float) -> None:
    """Calls of half a second on a model of 10 ms and 1 ms a row: about 865 rows/s in full batches."""
    full = scheduler(batch_rows=64, waiting_max=100_000)
    peak = 64 / (0.01 + 0.001 * 64)
    arrivals = [index / (load * peak) for index in range(int(10 * load * peak))]
    now, good, wasted, arrived = 0.0, 0, 0, 0
    while now < 10.0:
        while arrived < len(arrivals) and arrivals[arrived] <= now:
            enter(full, call(arrived, deadline=arrivals[arrived] + 0.5, entered=arrivals[arrived]))
            arrived += 1
        run = full.start(now)
        if run is None or not run.batches:
            now += 0.001
            continue
        for batch in run.batches:
            seconds = 0.01 + 0.001 * len(batch)
            now += seconds
            full.observe(len(batch), seconds, now)
            in_time = sum(arrivals[item] + 0.5 >= now for item in batch)
            good, wasted = good + in_time, wasted + len(batch) - in_time
        full.finish()
    assert good >= 0.85 * min(1.0, load) * peak * 10
    assert wasted < 0.1 * good


class SchedulerMachine(RuleBasedStateMachine):
    """Whatever happens, each call leaves once, batches keep to their limits, and slots come back."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = scheduler(slots=2, waiting_max=12, batch_rows=6, delay_s=0.3, preferred=(2, 4))
        self.calls: dict[int, Waiting[int]] = {}
        self.left: set[int] = set()
        self.runs = 0
        self.now = 0.0
        self.count = 0

    @rule(
        group=st.sampled_from(["x", "y", None]),
        rows=st.integers(1, 8),
        priority=st.integers(0, 9),
        left_s=st.floats(0.01, 3),
    )
    def arrive(self, group: str | None, rows: int, priority: int, left_s: float) -> None:
        self.count += 1
        arrived = call(
            self.count, group=group, rows=rows, deadline=self.now + left_s, entered=self.now, priority=priority
        )
        if self.scheduler.enter(arrived) is None:
            self.calls[self.count] = arrived
        else:
            assert self.scheduler.waiting >= 12

    @rule(item=st.integers(1, 40))
    def cancel(self, item: int) -> None:
        if self.scheduler.leave(item):
            self._gone(item)
        else:
            assert item not in self.calls or item in self.left

    @rule(by_s=st.floats(0, 0.5))
    def time_passes(self, by_s: float) -> None:
        self.now += by_s

    @rule()
    def fill(self) -> None:
        run = self.scheduler.start(self.now)
        if run is None:
            assert self.runs == 2 or not self.scheduler.waiting
            return
        for late in run.late:
            self._gone(late)
        for batch in run.batches:
            rows = sum(self.calls[item].rows for item in batch)
            assert len(batch) == 1 or rows <= 6
            assert len({self.calls[item].group for item in batch}) == 1
            assert len(batch) == 1 or self.calls[batch[0]].group is not None
            for item in batch:
                assert self.calls[item].deadline > self.now
                self._gone(item)
        self.runs += bool(run.batches)
        if not run.batches and self.scheduler.waiting:
            assert self.scheduler.wake_at is not None
            assert self.now < self.scheduler.wake_at <= self.now + 0.3

    @rule(seconds=st.floats(1e-5, 0.2), rows=st.integers(1, 6))
    def execution_ends(self, seconds: float, rows: int) -> None:
        if self.runs:
            self.scheduler.observe(rows, seconds, self.now)
            self.scheduler.finish()
            self.runs -= 1

    def _gone(self, item: int) -> None:
        assert item in self.calls
        assert item not in self.left
        self.left.add(item)

    @invariant()
    def accounts_are_right(self) -> None:
        assert self.scheduler.running == self.runs <= 2
        assert self.scheduler.waiting == len(self.calls) - len(self.left)
        assert self.scheduler.waiting_bytes == 10 * self.scheduler.waiting
        assert math.isfinite(self.scheduler.needed_s(1, self.now))


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=50)
