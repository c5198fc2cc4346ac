"""How the time of an execution is shared by the calls that it answered."""

from __future__ import annotations

from collections.abc import Sequence


def time_shares_us(execution_us: int, rows: Sequence[int]) -> Sequence[int]:
    """Each call's part of an execution's time, by its rows.

    The parts are whole microseconds and add up to `execution_us`: what is cut off one is in the next.

    Args:
        execution_us: Time of the execution in microseconds.
        rows: Rows of each call, at least one call; where none has any, calls have equal parts.
    """
    if len(rows) == 1:
        return (execution_us,)
    if not any(rows):
        rows = (1,) * len(rows)
    whole, before, told_us = sum(rows), 0, 0
    shares: list[int] = []
    for own in rows:
        before += own
        until_us = execution_us * before // whole
        shares.append(until_us - told_us)
        told_us = until_us
    return shares
