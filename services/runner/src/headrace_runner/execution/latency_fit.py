"""How long an execution takes by its number of rows, learnt while it runs."""

from __future__ import annotations

from math import inf

_WEIGHT = 0.1
_VARIED = 1e-2
_FIXED_SHARE = 0.05
_FADE = 0.99
_FORGET = 1.1
_OUTLIER = 4.0
_LEARNT = 3


class LatencyFit:
    """An online fit of `latency = a * rows + b`, recent executions counting most. Pure.

    Until executions of different sizes were seen, the latency is taken to be the same for all sizes. While sizes hardly
    differ, the slope fades slowly, so that other sizes are tried again. Neither the slope nor the fixed part is ever
    negative, and a single execution that took far longer than it should counts as one that took a few times as long.

    Source: exponentially weighted least squares, see Hunter, "The Exponentially Weighted Moving Average", 1986.
    """

    def __init__(self) -> None:
        self._count = 0
        self._rows = 0.0
        self._seconds = 0.0
        self._rows_squared = 0.0
        self._rows_seconds = 0.0
        self._quickest = 1.0
        self.per_row_s = 0.0
        self.fixed_s = 0.0

    @property
    def known(self) -> bool:
        """Whether anything was observed."""
        return bool(self._count)

    def observe(self, rows: int, seconds: float) -> None:
        """Folds one execution in; no rows count as one."""
        rows = max(1, rows)
        expected_s = self.predict(rows)
        if expected_s:
            self._quickest = min(seconds / expected_s, self._quickest * _FORGET, 1.0)
            if self._count >= _LEARNT:
                seconds = min(seconds, _OUTLIER * expected_s)
        self._count += 1
        # The first ones count alike, so that the very first doesn't outweigh the next ten.
        weight = max(_WEIGHT, 1 / self._count)
        self._rows += weight * (rows - self._rows)
        self._seconds += weight * (seconds - self._seconds)
        self._rows_squared += weight * (rows * rows - self._rows_squared)
        self._rows_seconds += weight * (rows * seconds - self._rows_seconds)
        variance = self._rows_squared - self._rows * self._rows
        # Sizes that hardly differ say nothing about the slope.
        if variance > _VARIED * self._rows_squared:
            self.per_row_s = (self._rows_seconds - self._rows * self._seconds) / variance
        else:
            self.per_row_s *= _FADE
        self.per_row_s = min(max(self.per_row_s, 0.0), self._seconds / self._rows)
        self.fixed_s = self._seconds - self.per_row_s * self._rows

    def predict(self, rows: int) -> float:
        """Seconds that an execution of so many rows takes; 0 while nothing is known."""
        return self.per_row_s * rows + self.fixed_s

    def at_least(self, rows: int) -> float:
        """Seconds that one takes when all goes well, as one of the last few did."""
        return self.predict(rows) * self._quickest

    def rows_that_pay(self) -> float:
        """Rows from which on a larger execution hardly costs less by the row: what is fixed is a twentieth of it."""
        if not self.per_row_s:
            return inf
        return self.fixed_s / self.per_row_s * (1 / _FIXED_SHARE - 1)
