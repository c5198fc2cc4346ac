"""The time of an execution is shared by rows, to the microsecond."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.execution.time_shares import time_shares_us


@pytest.mark.parametrize(
    ("execution_us", "rows", "shares"),
    [
        (1_000, [1, 3], [250, 750]),
        (1_000, [5], [1_000]),
        (1_000, [0], [1_000]),
        (1_000, [1, 0, 1], [500, 0, 500]),
        (100, [1, 1, 1], [33, 33, 34]),
        (10, [0, 0], [5, 5]),
    ],
)
def test_calls_have_the_part_of_their_rows(execution_us: int, rows: list[int], shares: list[int]) -> None:
    assert [*time_shares_us(execution_us, rows)] == shares


@given(st.integers(0, 10**9), st.lists(st.integers(0, 4_096), min_size=1, max_size=64))
def test_parts_add_up_to_the_execution_and_none_is_off_by_a_microsecond(execution_us: int, rows: Sequence[int]) -> None:
    shares = time_shares_us(execution_us, rows)
    assert sum(shares) == execution_us
    if sum(rows):
        for share, own in zip(shares, rows, strict=True):
            assert abs(share - execution_us * own / sum(rows)) < 1
