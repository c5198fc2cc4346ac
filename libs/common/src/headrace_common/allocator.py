"""How a long-lived process treats memory: what large messages have used is kept, and garbage is seldom looked for."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

KEPT_BYTES = 512 << 20
HUGE_BYTES = 8 << 20
"""Messages from this size on leave memory behind that is worth giving back."""

# mallopt's parameters, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGEST_BYTES = 1 << 30


def keep_freed_memory(kept_bytes: int = KEPT_BYTES, *, heaps: int = 1) -> bool:
    """Tells the C library to serve large blocks from its heaps and to leave up to `kept_bytes` of them for later.

    By default every block over 128 KiB is a mapping of its own, and each of its pages faults on first use: for a
    60 MiB message that is most of the time that its copies block the event loop. Call it before threads start.

    Args:
        kept_bytes: Freed memory that stays with the process.
        heaps: Threads that share one wait for each other, also for one of low priority that has just been stopped in
            the middle of an allocation. With more of them than threads, none is shared; then less is used again.

    Returns:
        Whether the C library can be told; on others than glibc everything stays as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_ARENA_MAX, heaps), (_M_MMAP_THRESHOLD, _LARGEST_BYTES), (_M_TRIM_THRESHOLD, kept_bytes))
    return all(mallopt(parameter, value) for parameter, value in settings)


class FreedMemory:
    """Gives back to the system what huge messages have left, once no more of them come.

    Everything that allocates waits meanwhile, 15 ms for 250 MiB, and the next huge message takes its pages anew: so it
    is done once after the last of them and not in between.

    Args:
        seen: How many huge messages there were so far.
        quiet_s: How long none may have come.
    """

    def __init__(self, *, seen: Callable[[], int], quiet_s: float = 10.0) -> None:
        self._seen = seen
        self._quiet_s = quiet_s
        self._before = self._given_back = seen()

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            await asyncio.sleep(self._quiet_s)
            if self.due():
                await asyncio.to_thread(_give_back)

    def due(self) -> bool:
        """Asked every `quiet_s`: whether it is time to give back."""
        before, self._before = self._before, self._seen()
        if self._before != before or self._before == self._given_back:
            return False
        self._given_back = self._before
        return True


def _give_back() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def collect_garbage_seldom() -> None:
    """Takes what lives already out of the collector's sight, and lets more gather before it looks.

    Calls free their objects by reference counts; the collector's passes over all that lives were a tenth of a busy
    gateway's time. grpc.aio leaves five objects of each call in a circle, so it must not look too seldom either: a
    pass over 50,000 of them stops the process for 20 to 120 ms. Call it once the modules are imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)
