"""Circuit breakers of replicas."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_gateway.inference.resilience.circuit_breaker import BreakerState, CircuitBreaker

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


def breaker(told: list[tuple[BreakerState, BreakerState]] | None = None) -> CircuitBreaker:
    def changed(former: BreakerState, state: BreakerState) -> None:
        if told is not None:
            told.append((former, state))

    return CircuitBreaker(volume=20, ratio=0.5, open_s=5.0, successes=2, changed=changed)


def opened(at: float) -> CircuitBreaker:
    found = breaker()
    for _ in range(20):
        found.failed(at)
    assert found.state is OPEN
    return found


def test_opens_at_half_of_twenty_calls_and_not_before() -> None:
    found = breaker()
    for _ in range(10):
        found.succeeded(100.0)
    for _ in range(9):
        found.failed(101.0)
    assert found.state is CLOSED
    found.failed(101.0)
    assert (found.state, found.allows(105.9), found.allows(106.0)) == (OPEN, False, True)
    assert found.probe_due_s(102.0) == 4.0


def test_what_is_ten_seconds_old_counts_no_more() -> None:
    found = breaker()
    for _ in range(19):
        found.failed(100.0)
    found.failed(110.1)
    assert found.state is CLOSED


def test_one_probe_at_a_time_and_two_good_ones_close_it() -> None:
    found = opened(100.0)
    found.sent()
    assert (found.state, found.allows(105.0)) == (HALF_OPEN, False)
    found.succeeded(105.1)
    assert (found.state, found.allows(105.1)) == (HALF_OPEN, True)
    found.sent()
    found.succeeded(105.2)
    assert found.state is CLOSED
    found.failed(105.3)
    assert found.state is CLOSED, "it begins to count anew"


def test_a_failed_probe_opens_it_for_as_long_again_and_an_abandoned_one_frees_its_place() -> None:
    found = opened(100.0)
    found.sent()
    found.abandoned()
    assert (found.state, found.allows(105.0)) == (HALF_OPEN, True)
    found.sent()
    found.failed(106.0)
    assert (found.state, found.allows(110.9), found.allows(111.0)) == (OPEN, False, True)


@given(st.lists(st.tuples(st.sampled_from("sofa"), st.floats(0, 4)), max_size=120))
def test_at_most_one_probe_is_under_way_and_transitions_follow_the_states(steps: list[tuple[str, float]]) -> None:
    told: list[tuple[BreakerState, BreakerState]] = []
    found = breaker(told)
    now, under_way, failures, total = 100.0, 0, 0, 0
    for step, seconds in steps:
        now += seconds
        before = found.state
        if step == "s":
            if before is not CLOSED and found.allows(now):
                assert under_way == 0
                under_way = 1
                found.sent()
        elif before is HALF_OPEN and not under_way:
            continue
        elif step == "o":
            found.succeeded(now)
            total += 1
        elif step == "f":
            found.failed(now)
            failures, total = failures + 1, total + 1
        else:
            found.abandoned()
        if step != "s" and before is HALF_OPEN:
            under_way = 0
        if before is CLOSED and found.state is OPEN:
            assert total >= 20 and failures, "it opens on failures alone"
    state = CLOSED
    for former, after in told:
        assert former is state
        assert (former, after) in {(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (HALF_OPEN, CLOSED)}
        state = after
    assert state is found.state
