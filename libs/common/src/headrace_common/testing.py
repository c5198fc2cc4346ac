"""Doubles that tests of every service share. Only time is faked here, never a service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """A `Clock` that moves only when a test says so."""

    def __init__(self, *, start: datetime = datetime(2026, 1, 1, tzinfo=UTC), monotonic_s: float = 1_000.0) -> None:
        self._now = start
        self._monotonic_s = monotonic_s

    def monotonic(self) -> float:
        return self._monotonic_s

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves both readings forward.

        Raises:
            ValueError: `seconds` is negative; a monotonic clock can't go back.
        """
        if seconds < 0:
            raise ValueError("a monotonic clock can't go back")
        self._monotonic_s += seconds
        self._now += timedelta(seconds=seconds)
