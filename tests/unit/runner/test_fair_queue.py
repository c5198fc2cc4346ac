"""Who is next: urgency that ages, tenants that take turns, deadlines within a tenant."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace_runner.execution.fair_queue import FairQueue, Waiting

AGEING_S = 1.0


def waiting(
    item: int,
    *,
    tenant: str = "a",
    priority: int = 5,
    group: str | None = "g",
    rows: int = 1,
    deadline: float = 100.0,
    entered: float = 0.0,
) -> Waiting[int]:
    return Waiting(item, tenant, priority, group, rows, 10, deadline, entered)


def queue_of(*items: Waiting[int]) -> FairQueue[int]:
    queue: FairQueue[int] = FairQueue(ageing_s=AGEING_S)
    for item in items:
        queue.push(item)
    return queue


def served(queue: FairQueue[int], count: int = -1) -> list[int]:
    """Takes what is next, so many times or until nothing is left."""
    order: list[int] = []
    while queue and count != len(order):
        head, _ = queue.peek(0.0)
        assert head.item is not None
        order.append(head.item)
        queue.take(head)
    return order


def test_more_urgent_items_come_first() -> None:
    assert served(queue_of(*(waiting(priority, priority=priority) for priority in (3, 9, 0, 5)))) == [9, 5, 3, 0]


def test_each_ageing_time_is_worth_one_priority() -> None:
    old, young = waiting(1, priority=4, entered=0.0), waiting(2, priority=5, entered=1.5)
    assert served(queue_of(old, young)) == [1, 2]
    younger = waiting(2, priority=5, entered=0.5)
    assert served(queue_of(waiting(1, priority=4), younger)) == [2, 1]


@given(st.lists(st.tuples(st.floats(1, 1e6), st.integers(0, 3)), max_size=30))
def test_a_tenants_earliest_deadline_comes_first(items: list[tuple[float, int]]) -> None:
    queue = queue_of(
        *(waiting(index, deadline=deadline, group=f"g{group}") for index, (deadline, group) in enumerate(items))
    )
    deadlines = [items[item][0] for item in served(queue)]
    assert all(first <= second for first, second in pairwise(deadlines))


@given(st.integers(2, 5), st.integers(1, 8), st.integers(1, 8))
def test_tenants_get_equal_rows_whatever_the_size_of_their_calls(tenants: int, small: int, large: int) -> None:
    sizes = [small if tenant % 2 else large for tenant in range(tenants)]
    queue = queue_of(
        *(
            waiting(1_000 * tenant + index, tenant=str(tenant), rows=sizes[tenant])
            for tenant in range(tenants)
            for index in range(200)
        )
    )
    rows = [0] * tenants
    for item in served(queue, 150):
        rows[item // 1_000] += sizes[item // 1_000]
    assert max(rows) - min(rows) <= 2 * max(small, large)


def test_one_call_of_a_quiet_tenant_passes_the_backlog_of_another() -> None:
    queue = queue_of(*(waiting(index, tenant="flood") for index in range(1_000)))
    served(queue, 500)
    queue.push(waiting(5_000, tenant="quiet", entered=1.0))
    assert 5_000 in served(queue, 2)


def test_what_a_tenant_had_while_alone_is_not_held_against_it() -> None:
    queue = queue_of(*(waiting(index, tenant="early") for index in range(1_000)))
    served(queue, 500)
    for index in range(100):
        queue.push(waiting(5_000 + index, tenant="late", entered=1.0))
    order = served(queue, 40)
    assert 15 <= sum(item < 5_000 for item in order) <= 25


def test_a_debt_is_kept_while_its_tenant_is_away() -> None:
    queue = queue_of(*(waiting(index, tenant="steady") for index in range(500)))
    rows = {"steady": 0, "bulky": 0}
    bulky_waits = False
    for step in range(300):
        if not bulky_waits:
            queue.push(waiting(5_000 + step, tenant="bulky", rows=32))
        head, _ = queue.peek(0.0)
        bulky_waits = head.tenant_id != "bulky"
        rows[head.tenant_id] += head.rows
        queue.take(head)
    assert rows["bulky"] <= rows["steady"] + 64


def test_what_has_waited_longest_is_served_when_its_priority_has_aged() -> None:
    queue = queue_of(waiting(1, priority=0, deadline=1e6, entered=0.0))
    for index in range(20):
        queue.push(waiting(100 + index, priority=0, deadline=20.0, entered=9.0))
        queue.push(waiting(200 + index, priority=9, entered=9.5))
    head, _ = queue.peek(9.6)
    assert head.item == 1


def test_nothing_waits_for_ever_behind_earlier_deadlines() -> None:
    queue = queue_of(waiting(1, deadline=1e6, entered=0.0), waiting(2, deadline=12.0, entered=10.5))
    assert queue.peek(5.0)[0].item == 2
    assert queue.peek(10.6)[0].item == 1


def test_company_is_of_the_same_group_and_fits() -> None:
    queue = queue_of(
        waiting(1, group="x", rows=4, deadline=1),
        waiting(2, group="y", deadline=2),
        waiting(3, group="x", rows=2, tenant="b"),
        waiting(4, group=None),
    )
    head, _ = queue.peek(0.0)
    queue.take(head)
    company = queue.next_of("x", 3)
    assert company is not None
    assert company.item == 3
    assert queue.next_of("x", 1) is None
    assert (queue.rows_of("x"), queue.rows_of("y"), queue.rows) == (2, 1, 4)


class QueueMachine(RuleBasedStateMachine):
    """Any order of arrivals, cancels and services keeps the accounts right and loses nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue(ageing_s=AGEING_S)
        self.present: dict[int, tuple[int, str]] = {}
        self.count = 0

    @rule(
        tenant=st.sampled_from("ab"),
        priority=st.integers(0, 9),
        group=st.sampled_from(["x", "y"]),
        rows=st.integers(1, 9),
        deadline=st.floats(0, 100),
    )
    def enter(self, tenant: str, priority: int, group: str, rows: int, deadline: float) -> None:
        self.count += 1
        self.queue.push(
            waiting(
                self.count,
                tenant=tenant,
                priority=priority,
                group=group,
                rows=rows,
                deadline=deadline,
                entered=float(self.count),
            )
        )
        self.present[self.count] = (rows, group)

    @rule(item=st.integers(0, 60))
    def cancel(self, item: int) -> None:
        assert self.queue.remove(item) == (self.present.pop(item, None) is not None)

    @precondition(lambda self: self.present)
    @rule(more=st.integers(0, 20))
    def serve(self, more: int) -> None:
        head, oldest = self.queue.peek(0.0)
        assert head.item in self.present
        assert oldest <= head.entered_s
        group = head.group
        assert group is not None
        self._gone(head)
        while (other := self.queue.next_of(group, more)) is not None:
            assert other.group == group
            assert other.rows <= more
            more -= other.rows
            self._gone(other)
        assert not any(own == group and rows <= more for rows, own in self.present.values()) or self._passed_over(more)

    def _passed_over(self, more: int) -> bool:
        # Only the first item of a tenant's group is looked at, so a large one may hide small ones behind it.
        return any(rows > more for rows, _ in self.present.values())

    def _gone(self, item: Waiting[int]) -> None:
        assert item.item is not None
        del self.present[item.item]
        self.queue.take(item)

    @invariant()
    def accounts_are_right(self) -> None:
        assert len(self.queue) == len(self.present)
        assert self.queue.rows == sum(rows for rows, _ in self.present.values())
        assert self.queue.payload_bytes == 10 * len(self.present)
        for group in "xy":
            assert self.queue.rows_of(group) == sum(rows for rows, own in self.present.values() if own == group)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40)


def test_cancelled_items_leave_no_memory_behind() -> None:
    queue = queue_of(waiting(0, deadline=1))
    for index in range(1, 10_000):
        queue.push(waiting(index, deadline=1_000.0 + index))
        queue.remove(index)
    share = queue._bands[5].shares["a"]
    assert sum(map(len, share.heaps.values())) < 200
