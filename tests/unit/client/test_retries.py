"""When a call is tried again, told by a clock that these tests turn."""

from __future__ import annotations

from random import Random

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from headrace_client import NO_RETRIES, RetryPolicy
from headrace_client.errors import HeadraceError, ModelError, RunnerUnavailable, UnreachableError
from headrace_client.failures import Failure
from headrace_client.retries import Attempts, RetryBudget

LOST = Failure("RUNNER_001", "RUNNER_LOST", StatusCode.UNAVAILABLE, retryable=True)


def lost(retry_after_s: float | None = None) -> HeadraceError:
    return RunnerUnavailable("gone", LOST, retry_after_s=retry_after_s)


def attempts(
    policy: RetryPolicy | None = None, *, budget: RetryBudget | None = None, deadline_s: float = 100.0, seed: int = 0
) -> Attempts:
    policy = policy or RetryPolicy()
    budget = budget or RetryBudget(tokens_max=policy.tokens_max, tokens_per_success=policy.tokens_per_success)
    return Attempts(policy=policy, budget=budget, random=Random(seed), deadline_s=deadline_s)


def test_only_failures_that_say_so_are_retried() -> None:
    assert attempts().pause_after(ModelError("no"), now_s=0) is None
    assert attempts().pause_after(lost(), now_s=0) is not None
    assert attempts().pause_after(UnreachableError("silence"), now_s=0) is not None


def test_pauses_grow_and_tries_end() -> None:
    tries = attempts(RetryPolicy(attempts_max=4, initial_s=1, multiplier=2, max_s=3))
    pauses = [tries.pause_after(lost(), now_s=0) for _ in range(4)]
    assert pauses[3] is None
    assert [pause and round(pause / base, 6) for pause, base in zip(pauses, (1, 2, 3), strict=False)] == [
        pytest.approx(1, abs=0.2)
    ] * 3


def test_the_meshs_advice_is_waited_for() -> None:
    assert attempts().pause_after(lost(retry_after_s=7.5), now_s=0) == 7.5


def test_no_retry_begins_at_or_after_the_deadline() -> None:
    assert attempts(deadline_s=10).pause_after(lost(retry_after_s=4), now_s=5) == 4
    assert attempts(deadline_s=10).pause_after(lost(retry_after_s=5), now_s=5) is None
    assert attempts(deadline_s=10).pause_after(lost(), now_s=11) is None


def test_one_attempt_means_none_is_repeated() -> None:
    assert attempts(NO_RETRIES).pause_after(lost(), now_s=0) is None


def test_a_mesh_that_fails_all_calls_is_spared_until_others_succeed() -> None:
    budget = RetryBudget(tokens_max=10, tokens_per_success=0.1)

    def may_retry() -> bool:
        return attempts(budget=budget).pause_after(lost(), now_s=0) is not None

    assert [may_retry() for _ in range(6)] == [True] * 4 + [False] * 2
    for _ in range(21):
        budget.succeeded()
    assert may_retry()
    assert not may_retry()


def test_failures_that_nobody_would_retry_take_nothing_from_the_budget() -> None:
    budget = RetryBudget(tokens_max=10, tokens_per_success=0.1)
    for _ in range(20):
        assert attempts(budget=budget).pause_after(ModelError("no"), now_s=0) is None
    assert budget.allows_retry


@given(
    policy=st.builds(
        RetryPolicy,
        attempts_max=st.integers(1, 10),
        initial_s=st.floats(0.001, 5),
        multiplier=st.floats(1, 4),
        max_s=st.floats(0.001, 10),
        tokens_max=st.floats(0, 20),
        tokens_per_success=st.floats(0, 1),
    ),
    advice=st.lists(st.none() | st.floats(0, 100), min_size=12, max_size=12),
    deadline_s=st.floats(0, 60),
    seed=st.integers(0, 1000),
)
def test_tries_pauses_and_time_stay_within_the_policy(
    policy: RetryPolicy, advice: list[float | None], deadline_s: float, seed: int
) -> None:
    tries, now_s, made = attempts(policy, deadline_s=deadline_s, seed=seed), 0.0, 0
    for retry_after_s in advice:
        made += 1
        pause_s = tries.pause_after(lost(retry_after_s), now_s=now_s)
        if pause_s is None:
            break
        assert pause_s >= (retry_after_s or 0)
        assert pause_s <= max(policy.max_s * 1.2, retry_after_s or 0)
        now_s += pause_s
        assert now_s < deadline_s
    assert made <= policy.attempts_max
