"""How busy the event loop is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_SAMPLE_S = 0.05
_WEIGHT = 0.5


class LoopLoad:
    """The share of time in which the event loop's thread computes, 0 to 1, over about the last tenth of a second."""

    def __init__(
        self,
        *,
        wall_s: Callable[[], float] = time.monotonic,
        computed_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self.share = 0.0
        self._wall_s = wall_s
        self._computed_s = computed_s

    async def run(self) -> None:
        """Measures until cancelled."""
        wall_s, busy_s = self._wall_s(), self._computed_s()
        while True:
            await asyncio.sleep(_SAMPLE_S)
            now_wall_s, now_busy_s = self._wall_s(), self._computed_s()
            share = min(1.0, (now_busy_s - busy_s) / (now_wall_s - wall_s))
            self.share += _WEIGHT * (share - self.share)
            wall_s, busy_s = now_wall_s, now_busy_s
