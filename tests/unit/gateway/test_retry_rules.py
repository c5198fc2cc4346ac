"""When a failed call is tried again: the budget, the pauses, and what counts against whom."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_common import catalogue
from headrace_common.testing import FakeClock
from headrace_gateway.inference.resilience.backoff import backoff_s
from headrace_gateway.inference.resilience.failures import MOVES, REPLICA_FAULTS, counts_as_failure
from headrace_gateway.inference.resilience.retry_budget import RetryBudget


@given(
    steps=st.lists(st.tuples(st.integers(0, 50), st.floats(0, 5), st.integers(0, 30), st.booleans()), max_size=40),
    ratio=st.floats(0, 1),
    floor_per_s=st.floats(0, 20),
)
def test_retries_never_exceed_what_calls_and_time_have_earned(
    steps: list[tuple[int, float, int, bool]], ratio: float, floor_per_s: float
) -> None:
    clock = FakeClock()
    budget = RetryBudget(ratio=ratio, floor_per_s=floor_per_s, clock=clock)
    started_with = budget.left
    earned, taken = started_with, 0
    for calls, seconds, wanted, charged in steps:
        budget.calls += calls
        clock.advance(seconds)
        earned += calls * ratio + seconds * floor_per_s
        for _ in range(wanted):
            taken += budget.take()
            if charged:
                budget.charge()
        assert 0 <= budget.left <= max(1.0, floor_per_s * 10)
    assert taken <= earned + 1e-6


def test_asking_what_is_left_changes_nothing() -> None:
    clock = FakeClock()
    budget = RetryBudget(ratio=0.1, floor_per_s=1.0, clock=clock)
    while budget.take():
        pass
    clock.advance(0.6)
    before = [getattr(budget, name) for name in RetryBudget.__slots__]
    assert budget.left == pytest.approx(0.6)
    assert before == [getattr(budget, name) for name in RetryBudget.__slots__]


def test_a_tenth_of_the_calls_may_be_retried_when_the_floor_is_used_up() -> None:
    budget = RetryBudget(ratio=0.1, floor_per_s=1.0, clock=FakeClock())
    while budget.take():
        pass
    budget.calls += 50
    assert [budget.take() for _ in range(7)] == [True] * 5 + [False] * 2


@given(retry=st.integers(1, 50), seed=st.integers(), hint_s=st.none() | st.floats(0, 60))
def test_pauses_double_to_two_seconds_within_a_quarter_and_heed_hints(
    retry: int, seed: int, hint_s: float | None
) -> None:
    pause_s = backoff_s(retry, Random(seed), hint_s=hint_s)
    middle_s = min(0.1 * 2 ** (retry - 1), 2.0)
    if hint_s is None:
        assert 0.75 * middle_s - 1e-9 <= pause_s <= 1.25 * middle_s + 1e-9
    else:
        assert hint_s <= pause_s <= max(hint_s, 1.25 * middle_s + 1e-9)


@given(entry=st.sampled_from(catalogue.ALL), waited_s=st.floats(0, 100), since_s=st.floats(0, 100))
def test_no_client_error_and_no_refusal_for_load_counts_against_a_replica(
    entry: catalogue.CatalogueEntry, waited_s: float, since_s: float
) -> None:
    if counts_as_failure(entry.reason, waited_s=waited_s, since_success_s=since_s):
        assert entry.http >= 500
        assert entry not in (catalogue.RUNNER_OVERLOADED, catalogue.QUEUE_TIMEOUT, catalogue.LOAD_SHED)
        assert entry.reason not in MOVES


def test_a_deadline_counts_only_against_a_replica_that_answered_nothing_for_a_second() -> None:
    timeout = catalogue.INFERENCE_TIMEOUT.reason
    assert counts_as_failure(timeout, waited_s=1.5, since_success_s=1.5)
    assert not counts_as_failure(timeout, waited_s=0.5, since_success_s=100), "the client's patience was short"
    assert not counts_as_failure(timeout, waited_s=20, since_success_s=0.1), "the call was behind others"
    assert timeout not in REPLICA_FAULTS
