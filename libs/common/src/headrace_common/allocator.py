"""How a long-lived process treats memory: what large messages have used is kept, and garbage is seldom looked for."""

from __future__ import annotations

import ctypes
import gc

KEPT_BYTES = 512 << 20

# mallopt's parameters, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGEST_BYTES = 1 << 30


def keep_freed_memory(kept_bytes: int = KEPT_BYTES) -> bool:
    """Tells the C library to serve large blocks from one heap and to leave up to `kept_bytes` of it for later.

    By default every block over 128 KiB is a mapping of its own, and each of its pages faults on first use: for a
    60 MiB message that is most of the time that its copies block the event loop. Call it before threads start.

    Returns:
        Whether the C library can be told; on others than glibc everything stays as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGEST_BYTES), (_M_TRIM_THRESHOLD, kept_bytes))
    return all(mallopt(parameter, value) for parameter, value in settings)


def collect_garbage_seldom() -> None:
    """Takes what lives already out of the collector's sight, and lets more gather before it looks.

    Calls free their objects by reference counts; the collector's passes over all that lives were a tenth of a busy
    gateway's time. Call it once the modules are imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
