"""Deadlines of many calls in one structure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_client.deadlines import Deadlines


@given(st.lists(st.floats(0, 100)), st.floats(0, 100))
def test_nothing_is_reported_early_nor_more_than_a_tick_late(deadlines: list[float], now: float) -> None:
    wheel: Deadlines[int] = Deadlines(tick_s=0.01)
    for item, deadline in enumerate(deadlines):
        wheel.add(item, deadline)
    expired = set(wheel.expired(now))
    for item, deadline in enumerate(deadlines):
        if deadline > now + 1e-9:
            assert item not in expired
        elif deadline < now - 0.010001:
            assert item in expired
    assert len(wheel) == len(deadlines) - len(expired)


def test_what_was_discarded_is_not_reported_and_holds_nothing() -> None:
    wheel: Deadlines[str] = Deadlines(tick_s=0.01)
    wheel.add("a", 1.0)
    wheel.add("b", 2.0)
    wheel.discard("a", 1.0)
    wheel.discard("a", 1.0)
    assert wheel.next_at() == 2.0
    wheel.discard("b", 2.0)
    assert wheel.next_at() is None
    assert wheel.expired(10.0) == []
