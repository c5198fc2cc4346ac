"""How long an execution takes by its number of rows, learnt while it runs."""

from __future__ import annotations

_WEIGHT = 0.1


class LatencyFit:
    """An online fit of `latency = a * rows + b`, recent executions counting most. Pure.

    Until executions of different sizes were seen, the latency is taken to be the same for all sizes. Neither the slope
    nor the fixed part is ever negative.

    Source: exponentially weighted least squares, see Hunter, "The Exponentially Weighted Moving Average", 1986.
    """

    def __init__(self) -> None:
        self._count = 0
        self._rows = 0.0
        self._seconds = 0.0
        self._rows_squared = 0.0
        self._rows_seconds = 0.0
        self.per_row_s = 0.0
        self.fixed_s = 0.0

    @property
    def known(self) -> bool:
        """Whether anything was observed."""
        return bool(self._count)

    def observe(self, rows: int, seconds: float) -> None:
        """Folds one execution in."""
        self._count += 1
        # The first ones count alike, so that the very first doesn't outweigh the next ten.
        weight = max(_WEIGHT, 1 / self._count)
        self._rows += weight * (rows - self._rows)
        self._seconds += weight * (seconds - self._seconds)
        self._rows_squared += weight * (rows * rows - self._rows_squared)
        self._rows_seconds += weight * (rows * seconds - self._rows_seconds)
        variance = self._rows_squared - self._rows * self._rows
        slope = 0.0
        # Sizes that hardly differ say nothing about the slope.
        if variance > 1e-3 * self._rows_squared:
            slope = (self._rows_seconds - self._rows * self._seconds) / variance
            slope = min(max(slope, 0.0), self._seconds / self._rows)
        self.per_row_s = slope
        self.fixed_s = max(0.0, self._seconds - slope * self._rows)

    def predict(self, rows: int) -> float:
        """Seconds that an execution of so many rows takes; 0 while nothing is known."""
        return self.per_row_s * rows + self.fixed_s
