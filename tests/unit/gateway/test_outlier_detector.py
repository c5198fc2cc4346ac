"""Which runners are ejected, and when they come back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_gateway.inference.resilience.outlier_detector import EJECT_MAX_S, OutlierDetector


def detector() -> OutlierDetector:
    return OutlierDetector(failures=5, eject_s=5.0)


def test_failures_of_one_model_are_the_models_and_those_of_two_the_runners() -> None:
    found = detector()
    assert not any(found.failed("r", "one", unexplained=False) for _ in range(50))
    assert found.failed("r", "two", unexplained=False)


def test_five_failures_that_no_model_explains_are_enough_and_a_good_answer_clears_them() -> None:
    found = detector()
    assert [found.failed("r", "one", unexplained=True) for _ in range(4)] == [False] * 4
    found.record("r").succeeded()
    assert [found.failed("r", "one", unexplained=True) for _ in range(5)] == [False] * 4 + [True]


def test_each_ejection_is_twice_as_long_and_who_returns_is_on_probation() -> None:
    found = detector()
    assert found.eject("r", runners=2, now=100.0) == 5.0
    assert found.eject("r", runners=2, now=101.0) is None, "it is away"
    assert found.returning(104.9) == []
    assert found.returning(105.0) == ["r"]
    assert found.failed("r", "one", unexplained=True), "the first failure is one too many"
    assert found.eject("r", runners=2, now=106.0) == 10.0
    assert found.returning(116.0) == ["r"]
    found.record("r").succeeded()
    assert not found.failed("r", "one", unexplained=True)
    assert found.eject("r", runners=2, now=116.0 + 301.0) == 5.0, "long ago is forgiven"


@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 8), st.floats(0, 20)), max_size=80),
)
def test_never_more_than_half_are_away_and_each_comes_back(runners: int, steps: list[tuple[int, float]]) -> None:
    found, now = detector(), 0.0
    away: dict[str, float] = {}
    for number, seconds in steps:
        now += seconds
        for runner in found.returning(now):
            assert now >= away.pop(runner)
        assert all(now < until for until in away.values())
        runner = f"r{number % runners}"
        span_s = found.eject(runner, runners=runners, now=now)
        if span_s is not None:
            assert 5.0 <= span_s <= EJECT_MAX_S
            assert runner not in away
            away[runner] = now + span_s
        assert 2 * len(away) <= runners
    assert set(found.returning(now + EJECT_MAX_S + 1)) == set(away)
