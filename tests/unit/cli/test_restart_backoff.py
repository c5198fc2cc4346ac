"""When a process that died is started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_cli.mesh.restart import RestartBackoff


def test_the_first_restart_is_nearly_immediate() -> None:
    assert RestartBackoff(first_s=0.1).after_death(lived_s=3600.0) == 0.1


def test_early_deaths_double_the_pause_up_to_the_longest() -> None:
    backoff = RestartBackoff(first_s=1.0, longest_s=5.0, steady_after_s=20.0)
    assert [backoff.after_death(lived_s=0.5) for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.deaths == 5


def test_a_process_that_stayed_up_starts_over() -> None:
    backoff = RestartBackoff(first_s=1.0, longest_s=60.0, steady_after_s=20.0)
    for _ in range(4):
        backoff.after_death(lived_s=1.0)
    assert backoff.after_death(lived_s=20.0) == 1.0
    assert backoff.after_death(lived_s=19.9) == 2.0


@given(st.lists(st.floats(min_value=0, max_value=1e6), max_size=80))
def test_the_pause_is_always_within_its_bounds(lives: list[float]) -> None:
    backoff = RestartBackoff(first_s=0.1, longest_s=10.0)
    for lived_s in lives:
        assert 0.1 <= backoff.after_death(lived_s=lived_s) <= 10.0
