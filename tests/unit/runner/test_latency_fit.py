"""The fit of latency by rows finds the line, and never says anything absurd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.execution.latency_fit import LatencyFit

observations = st.lists(st.tuples(st.integers(0, 512), st.floats(1e-6, 100, allow_nan=False)), min_size=1, max_size=60)


def test_nothing_is_predicted_before_anything_was_observed() -> None:
    fit = LatencyFit()
    assert not fit.known
    assert fit.predict(64) == 0


@given(st.floats(0, 1e-2), st.floats(1e-6, 1), st.lists(st.integers(1, 256), min_size=50, max_size=80))
def test_a_line_is_found(per_row_s: float, fixed_s: float, sizes: list[int]) -> None:
    fit = LatencyFit()
    for rows in [1, 256, *sizes, 1, 256]:
        fit.observe(rows, per_row_s * rows + fixed_s)
    for rows in (1, 100, 256):
        assert fit.predict(rows) == pytest.approx(per_row_s * rows + fixed_s, rel=1e-3, abs=1e-7)


@given(st.floats(1e-6, 10))
def test_one_size_alone_says_nothing_of_the_slope(seconds: float) -> None:
    fit = LatencyFit()
    for _ in range(20):
        fit.observe(8, seconds)
    assert fit.predict(8) == pytest.approx(seconds)
    assert fit.predict(800) == pytest.approx(seconds)


@given(observations)
def test_predictions_are_never_negative_and_grow_with_rows(seen: list[tuple[int, float]]) -> None:
    fit = LatencyFit()
    for rows, seconds in seen:
        fit.observe(rows, seconds)
    predicted = [fit.predict(rows) for rows in (1, 2, 64, 512)]
    assert predicted == sorted(predicted)
    assert predicted[0] >= 0
    assert fit.predict(1) <= max(seconds for _, seconds in seen) * (1 + 1e-9)
    assert 0 <= fit.at_least(64) <= fit.predict(64)


def test_a_machine_that_became_faster_is_noticed() -> None:
    fit = LatencyFit()
    for _ in range(50):
        fit.observe(1, 1.0)
    for _ in range(50):
        fit.observe(1, 0.01)
    assert fit.predict(1) < 0.02


def test_the_slope_fades_slowly_while_sizes_are_equal() -> None:
    fit = LatencyFit()
    for rows in (1, 8, 1, 8, 1, 8):
        fit.observe(rows, 0.01 * rows)
    for _ in range(80):
        fit.observe(1, 0.01)
    assert 0.03 < fit.predict(8) < 0.08
    assert fit.rows_that_pay() > 1


def test_one_slow_execution_does_not_end_batching() -> None:
    fit = LatencyFit()
    for _ in range(30):
        fit.observe(1, 0.005)
    fit.observe(64, 0.3)
    for _ in range(60):
        rows = max(1, int(min(64, fit.rows_that_pay())))
        fit.observe(rows, 0.005 + 0.00005 * rows)
    assert fit.rows_that_pay() > 64


def test_what_takes_at_least_follows_the_quickest_of_late() -> None:
    fit = LatencyFit()
    fit.observe(1, 3.0)
    fit.observe(1, 0.01)
    assert fit.at_least(1) < 0.02
    for _ in range(100):
        fit.observe(1, 0.01)
    assert fit.at_least(1) == pytest.approx(fit.predict(1), rel=0.01)


def test_no_rows_are_an_execution_too() -> None:
    fit = LatencyFit()
    fit.observe(0, 0.01)
    assert fit.predict(1) == pytest.approx(0.01)


@given(st.floats(1e-6, 1e-2), st.floats(1e-6, 1e-1))
def test_rows_pay_while_the_fixed_part_is_more_than_a_twentieth(per_row_s: float, fixed_s: float) -> None:
    fit = LatencyFit()
    for rows in (1, 100) * 30:
        fit.observe(rows, per_row_s * rows + fixed_s)
    rows = fit.rows_that_pay()
    assert fit.fixed_s == pytest.approx(0.05 * (fit.per_row_s * rows + fit.fixed_s), rel=1e-6)


def test_rows_always_pay_where_more_of_them_cost_nothing() -> None:
    fit = LatencyFit()
    fit.observe(1, 0.1)
    assert fit.rows_that_pay() == float("inf")


def test_executions_of_no_rows_have_a_fixed_part_only() -> None:
    fit = LatencyFit()
    for _ in range(3):
        fit.observe(0, 0.5)
    assert (fit.predict(0), fit.predict(64)) == (0.5, 0.5)
