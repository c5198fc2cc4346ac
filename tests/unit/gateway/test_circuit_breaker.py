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
        found.failed(at, at)
    assert found.state is OPEN
    return found


def test_opens_at_half_of_twenty_calls_and_not_before() -> None:
    found = breaker()
    for _ in range(10):
        found.succeeded(100.0, 100.0)
    for _ in range(9):
        found.failed(101.0, 101.0)
    assert found.state is CLOSED
    found.failed(101.0, 101.0)
    assert (found.state, found.allows(105.9), found.allows(106.0)) == (OPEN, False, True)
    assert found.probe_due_s(102.0) == 4.0


def test_what_is_ten_seconds_old_counts_no_more() -> None:
    found = breaker()
    for _ in range(19):
        found.failed(100.0, 100.0)
    found.failed(110.1, 110.0)
    assert found.state is CLOSED


def test_one_probe_at_a_time_and_two_good_ones_close_it() -> None:
    found = opened(100.0)
    found.sent(105.0)
    assert (found.state, found.allows(105.0)) == (HALF_OPEN, False)
    found.succeeded(105.1, 105.0)
    assert (found.state, found.allows(105.1)) == (HALF_OPEN, True)
    found.sent(105.1)
    found.succeeded(105.2, 105.1)
    assert found.state is CLOSED
    found.failed(105.3, 105.2)
    assert found.state is CLOSED, "it begins to count anew"


def test_a_failed_probe_opens_it_for_as_long_again_and_an_abandoned_one_frees_its_place() -> None:
    found = opened(100.0)
    found.sent(105.0)
    found.abandoned(105.0)
    assert (found.state, found.allows(105.0)) == (HALF_OPEN, True)
    found.sent(105.0)
    found.failed(106.0, 105.0)
    assert (found.state, found.allows(110.9), found.allows(111.0)) == (OPEN, False, True)


def test_a_probe_without_an_answer_leaves_its_place_to_another_after_a_while() -> None:
    found = opened(100.0)
    found.sent(106.0)
    assert (found.allows(110.9), found.probe_due_s(110.5)) == (False, 0.5)
    assert (found.allows(111.0), found.probe_due_s(111.0)) == (True, 0.0)


def test_calls_that_were_sent_before_it_opened_decide_nothing() -> None:
    found = opened(100.0)
    found.sent(105.0)
    found.abandoned(99.0)
    assert not found.allows(105.1), "the probe is still under way"
    found.succeeded(105.1, 99.0)
    found.succeeded(105.1, 99.0)
    assert found.state is HALF_OPEN
    found.failed(105.2, 99.0)
    assert found.state is HALF_OPEN


def test_silence_opens_it_once() -> None:
    found = breaker()
    found.trip(100.0)
    found.trip(103.0)
    assert (found.state, found.probe_due_s(103.0)) == (OPEN, 2.0)


@given(st.lists(st.tuples(st.sampled_from("sofa"), st.floats(0, 4)), max_size=120))
def test_at_most_one_probe_is_under_way_and_transitions_follow_the_states(steps: list[tuple[str, float]]) -> None:
    told: list[tuple[BreakerState, BreakerState]] = []
    found = breaker(told)
    now, sent_at, under_way, failures, total = 100.0, 100.0, 0, 0, 0
    for step, seconds in steps:
        now += seconds
        before = found.state
        if step == "s":
            if before is not CLOSED and found.allows(now):
                assert under_way == 0 or now >= sent_at + 5.0
                under_way, sent_at = 1, now
                found.sent(now)
        elif before is HALF_OPEN and not under_way:
            continue
        elif step == "o":
            found.succeeded(now, sent_at if under_way else now)
            total += 1
        elif step == "f":
            found.failed(now, sent_at if under_way else now)
            failures, total = failures + 1, total + 1
        else:
            found.abandoned(sent_at)
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
