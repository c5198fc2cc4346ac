"""How many calls a replica gets at once, and how long one more would wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_gateway.inference.resilience.adaptive_limit import AdaptiveLimit
from headrace_gateway.inference.resilience.service_pace import ServicePace


def run(limit: AdaptiveLimit, *, execution_s: float, batch: int, seconds: float, now: float = 0.0) -> tuple[float, int]:
    """A replica that always has as many calls as it may: the busy share of its time, and its calls at the end."""
    queue: list[float] = []
    busy_s, end = 0.0, now + seconds
    while now < end:
        queue += [now] * (limit.limit - len(queue))
        limit.held_back = True
        taken, queue = queue[:batch], queue[batch:]
        done = now + execution_s
        busy_s += execution_s
        for entered in taken:
            limit.observe(int((now - entered) * 1e6), int(execution_s * 1e6), done)
        now = done
    return busy_s / seconds, limit.limit


def test_a_slow_replica_gets_few_calls_and_is_always_busy() -> None:
    limit = AdaptiveLimit(limit_min=4, limit_max=100)
    share, at_once = run(limit, execution_s=0.02, batch=1, seconds=10.0)
    assert share >= 0.999
    assert 8 <= at_once <= 12, "about 0.15 s and two executions"


def test_a_replica_that_batches_gets_whole_batches() -> None:
    limit = AdaptiveLimit(limit_min=4, limit_max=1_000)
    _, at_once = run(limit, execution_s=0.03, batch=32, seconds=10.0)
    assert 64 <= at_once <= 300


def test_a_fast_replica_keeps_all_that_it_may_have() -> None:
    limit = AdaptiveLimit(limit_min=4, limit_max=100)
    assert run(limit, execution_s=0.0001, batch=1, seconds=2.0)[1] == 100


def test_it_grows_again_when_the_queue_has_gone_but_only_where_it_holds_calls_back() -> None:
    limit = AdaptiveLimit(limit_min=4, limit_max=100)
    run(limit, execution_s=0.05, batch=1, seconds=5.0)
    low = limit.limit
    limit.held_back = False
    for step in range(200):
        limit.observe(0, 1_000, 10.0 + step * 0.1)
    assert limit.limit == low
    for step in range(2_000):
        limit.held_back = True
        limit.observe(0, 1_000, 100.0 + step * 0.1)
    assert limit.limit == 100


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 10**7), st.floats(0, 1), st.booleans()), max_size=200))
def test_it_stays_within_its_bounds_whatever_is_observed(steps: list[tuple[int, int, float, bool]]) -> None:
    limit, now = AdaptiveLimit(limit_min=4, limit_max=100), 0.0
    for queue_us, compute_us, seconds, held_back in steps:
        now += seconds
        limit.held_back |= held_back
        limit.observe(queue_us, compute_us, now)
        assert 4 <= limit.limit <= 100


def test_a_wait_is_told_from_the_pace_of_the_line() -> None:
    pace = ServicePace()
    assert pace.needed_s(5, lambda _: 1_000, 0.0) == 0.0, "nothing is known yet"
    for step in range(100):
        pace.left(5, step * 0.02, last=False)
    pace.answered(0.06, 2.0)
    waiting = {5: 49}
    needed_s = pace.needed_s(5, lambda priority: waiting.get(priority, 0), 2.0)
    assert 50 * 0.02 + 0.06 <= needed_s <= 2.1 * (50 * 0.02 + 0.06)
    assert pace.needed_s(9, lambda priority: waiting.get(priority, 0), 2.0) == 0.0, "the less urgent are not in the way"


def test_what_was_observed_before_calls_were_held_back_does_not_raise_the_limit() -> None:
    limit = AdaptiveLimit(limit_min=4, limit_max=100)
    for step in range(31):
        limit.observe(0, 20_000, step * 0.02)
    for step in range(8):
        limit.hold_back()
        limit.observe(20_000 * step, 20_000, 1.0 + step * 0.02)
    assert limit.limit == 32


def test_a_burst_that_leaves_for_new_places_does_not_pass_for_pace() -> None:
    pace = ServicePace()
    for step in range(50):
        pace.left(5, step * 0.006, last=False)
    pace.answered(0.02, 0.3)
    needed_s = pace.needed_s(5, lambda level: 9 * (level == 5), 0.3, call_s=0.02, sent=40)
    assert needed_s == pytest.approx(2 * (10 + 40) * 0.02)


def test_a_slow_phase_that_is_over_says_nothing_about_now() -> None:
    pace = ServicePace()
    for step in range(5):
        pace.left(5, step * 10.0, last=False)
    pace.answered(10.0, 40.0)
    assert pace.needed_s(5, lambda _: 1, 40.9) > 20.0
    assert pace.latency_s(40.9) == 10.0
    assert pace.needed_s(5, lambda _: 1, 41.1) == pace.latency_s(41.1) == 0.0
    pace.left(5, 50.0, last=True)
    pace.left(5, 100.0, last=False)
    pace.left(5, 101.0, last=False)
    pace.answered(0.1, 101.0)
    assert pace.needed_s(5, lambda _: 0, 101.1) == pytest.approx(2 * (1.0 + 0.1)), "nor is it averaged with it"


def test_a_moment_in_which_few_calls_leave_is_no_pace() -> None:
    pace = ServicePace()
    pace.left(5, 0.0, last=False)
    for step in range(10):
        pace.left(5, 0.3 + step * 0.02, last=False)
    assert pace.needed_s(5, lambda level: 60 * (level == 5), 0.5) < 10, "a tenth of a second each would be 12 s"


def test_before_a_pace_is_known_executions_tell_it() -> None:
    pace = ServicePace()
    assert pace.needed_s(5, lambda level: 10 * (level == 5), 0.0, call_s=0.02, sent=30) == 2 * (10 + 30) * 0.02
    assert pace.needed_s(5, lambda _: 0, 0.0, call_s=0.02, sent=30) == 0.0, "nobody is before it"


def test_a_replica_that_waits_on_purpose_gets_as_many_calls_as_one_that_does_not() -> None:
    limit = AdaptiveLimit(limit_min=4, limit_max=100, wait_base_s=0.15 + 1.0)
    for step in range(1_000):
        limit.held_back = True
        limit.observe(1_000_000, 10_000, step * 0.1)
    assert limit.limit == 100


def test_what_more_urgent_calls_take_is_not_there_for_others() -> None:
    pace = ServicePace()
    for step in range(100):
        pace.left(8 if step % 2 else 3, step * 0.02, last=step % 2 == 1)
    waiting = {8: 0, 3: 24}
    assert 25 * 0.04 <= pace.needed_s(3, lambda priority: waiting.get(priority, 0), 2.0) <= 2.1 * 25 * 0.04


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 2), st.booleans(), st.floats(0, 10)), max_size=60),
    st.integers(0, 9),
    st.integers(0, 100),
)
def test_more_calls_ahead_never_make_a_wait_shorter(
    steps: list[tuple[int, float, bool, float]], priority: int, ahead: int
) -> None:
    pace, now = ServicePace(), 0.0
    for level, seconds, last, latency_s in steps:
        now += seconds
        pace.left(level, now, last=last)
        pace.answered(latency_s, now)
    needed_s = [pace.needed_s(priority, lambda _, more=more: ahead + more, now, call_s=0.01) for more in (0, 1)]
    assert 0.0 <= needed_s[0] <= needed_s[1]
