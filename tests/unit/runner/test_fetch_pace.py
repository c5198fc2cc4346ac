"""Fetches are bounded while calls come, and not otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.loading.fetch_pace import FetchPace

PARTS = st.lists(st.tuples(st.integers(0, 1 << 20), st.floats(0, 0.5)), min_size=1, max_size=50)


@given(PARTS)
def test_all_fetches_together_keep_to_the_bound_while_calls_come(parts: list[tuple[int, float]]) -> None:
    now = 100.0
    pace = FetchPace(bytes_per_s=1 << 20, called_at=lambda: now)
    began, fetched = now, 0
    for size, took_s in parts:
        now += took_s
        fetched += size
        now += pace.pause_s(size, now)
        assert now - began >= fetched / (1 << 20) - 0.05 - 1e-6
    assert now - began <= fetched / (1 << 20) + sum(took_s for _, took_s in parts) + 1e-6, "and waits no longer"


def test_nothing_waits_where_no_calls_are_served_or_no_bound_is_set() -> None:
    assert FetchPace(bytes_per_s=1, called_at=lambda: None).pause_s(1 << 20, 0.0) == 0
    assert FetchPace(bytes_per_s=1, called_at=lambda: 10.0).pause_s(1 << 20, 11.5) == 0
    assert FetchPace(bytes_per_s=0, called_at=lambda: 10.0).pause_s(1 << 20, 10.0) == 0
