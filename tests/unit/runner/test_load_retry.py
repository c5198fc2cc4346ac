"""Pauses between tries to load what has failed."""

from __future__ import annotations

import pytest

from headrace_runner.loading.load_retry import LoadRetry


@pytest.mark.parametrize(
    ("retryable", "pauses"),
    [(False, [5, 10, 20, 40, 60, 60]), (True, [1, 2, 4, 8, 16, 32, 60, 60])],
    ids=["for good", "may pass"],
)
def test_pauses_double_up_to_a_minute_and_start_anew_after_a_success(retryable: bool, pauses: list[float]) -> None:
    retry = LoadRetry()
    assert [retry.failed(0.0, retryable=retryable) for _ in pauses] == pauses
    retry.succeeded()
    assert retry.failed(0.0, retryable=retryable) == pauses[0]


def test_another_try_waits_for_the_pause_and_a_failure_nobody_asks_about_is_forgotten() -> None:
    retry = LoadRetry()
    assert not retry.pausing(100.0)
    retry.failed(100.0, retryable=False)
    assert [retry.pausing(at) for at in (104.9, 105.0)] == [True, False]
    assert [retry.stale(at) for at in (705.0, 705.1)] == [False, True]
