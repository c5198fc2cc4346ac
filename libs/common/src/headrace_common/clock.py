"""Time as a port, so that decisions can be tested without waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two readings of time: one for spans, one for dates."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back. Use it for every span of time."""
        ...

    def now(self) -> datetime:
        """The calendar time as an aware UTC datetime. Use it for what is stored or shown."""
        ...


class SystemClock:
    """The machine's clock."""

    # Itself, without a frame around it: it is read many times a call.
    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        return datetime.now(UTC)
