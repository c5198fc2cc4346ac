"""The window of the last changes that lets many followers of a feed share one read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_common.change_window import ChangeWindow


def messages(first: int, count: int) -> list[tuple[int, str]]:
    return [(revision, f"change {revision}") for revision in range(first, first + count)]


@given(
    st.integers(min_value=1, max_value=10),
    st.lists(st.tuples(st.integers(min_value=1, max_value=40), st.integers(min_value=0, max_value=8)), max_size=20),
    st.integers(min_value=0, max_value=50),
    st.integers(min_value=1, max_value=50),
)
def test_window_never_shows_a_gap(capacity: int, additions: list[tuple[int, int]], after: int, limit: int) -> None:
    window = ChangeWindow[str](capacity=capacity)
    for first, count in additions:
        window.add(messages(first, count))
    found = [revision for revision, _ in window.after(after, limit)]
    assert found == list(range(after + 1, after + 1 + len(found)))
    assert len(found) <= min(capacity, limit)


@given(st.integers(min_value=1, max_value=20), st.integers(min_value=1, max_value=60))
def test_window_holds_the_newest_changes(capacity: int, count: int) -> None:
    window = ChangeWindow[str](capacity=capacity)
    for revision, message in messages(1, count):
        window.add([(revision, message)])
    kept = min(capacity, count)
    assert [revision for revision, _ in window.after(count - kept, count)] == list(range(count - kept + 1, count + 1))
    assert window.after(count - kept - 1, count) == []


def test_window_forgets_another_history() -> None:
    window = ChangeWindow[str]()
    window.enter("a")
    window.add(messages(1, 3))
    window.enter("a")
    assert len(window.after(0, 10)) == 3
    window.enter("b")
    assert window.after(0, 10) == []
    assert window.epoch == "b"
