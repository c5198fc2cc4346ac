"""The deadline wheel: never early, never more than two ticks late, nothing twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_common.deadline_wheel import DeadlineWheel

TICK_S = 0.025
deadlines = st.lists(st.floats(1_000, 1_020), max_size=40)


@given(deadlines, st.floats(0.001, TICK_S), st.sampled_from([TICK_S, 0.1, 1 / 3]))
def test_each_item_comes_once_never_early_and_at_most_two_ticks_late(
    times: list[float], step_s: float, tick_s: float
) -> None:
    wheel: DeadlineWheel[int] = DeadlineWheel(tick_s=tick_s)
    for item, deadline in enumerate(times):
        wheel.add(item, deadline)
    left = set(range(len(times)))
    # Asked about once a tick; in between the clock is at no round number.
    now = min(times, default=1_000.0) - 2 * tick_s
    while left:
        before, now = now, now + tick_s * (0.9 + step_s)
        for item in wheel.expired(now):
            left.remove(item)
            assert times[item] <= now
            assert before - times[item] <= tick_s * 1.001, "the look before came too early for it"
        assert len(wheel) == len(left)
        assert now < 1_030


@given(deadlines, st.data())
def test_what_was_discarded_never_comes(times: list[float], data: st.DataObject) -> None:
    wheel: DeadlineWheel[int] = DeadlineWheel(tick_s=TICK_S)
    for item, deadline in enumerate(times):
        wheel.add(item, deadline)
    gone = data.draw(st.sets(st.sampled_from(range(len(times))))) if times else set[int]()
    for item in gone:
        wheel.discard(item, times[item])
        wheel.discard(item, times[item])
    assert len(wheel) == len(times) - len(gone)
    assert set(wheel.expired(2_000)) == set(range(len(times))) - gone
    for item in range(len(times)):
        wheel.discard(item, times[item])
    assert (len(wheel), wheel.expired(2_000)) == (0, [])


def test_what_is_over_comes_in_order_of_its_time() -> None:
    wheel: DeadlineWheel[str] = DeadlineWheel(tick_s=1.0)
    for name, deadline in (("c", 30.0), ("a", 1.0), ("b", 2.5), ("later", 40.0)):
        wheel.add(name, deadline)
    assert wheel.expired(31.0) == ["a", "b", "c"]
    assert wheel.expired(40.9) == []
    assert wheel.expired(41.0) == ["later"]
