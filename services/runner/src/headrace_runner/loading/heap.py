"""What models take of the C library's heap, and when freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import ClassVar

from headrace_common.allocator import KEPT_BYTES
from headrace_runner.device import resident_bytes

HEAPS = 64
"""More than a runner has threads, as a rule: executions of tenants that are above their part and loads run with low
priority, and nobody else may wait for them inside `malloc`."""
_KIB = 1 << 10
# The most that the C library can be told.
_KEPT_MAX_BYTES = (1 << 31) - 1


class _HeapInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


class Heap:
    """The C library's heap. Where that isn't glibc, memory is measured by what is in RAM and nothing is handed back.

    Handing memory back locks the whole heap, and everything that allocates waits for it: 50 to 100 ms for what reading
    a model of 300 MiB leaves behind. So it isn't done in the middle of a load, memory is measured by what is allocated,
    and a runner that serves calls keeps more of it for its next load.

    Args:
        memory_bytes: Memory that this process may use.
    """

    def __init__(self, *, memory_bytes: int) -> None:
        self._kept_serving_bytes = kept_serving_bytes(memory_bytes)
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._info = getattr(libc, "mallinfo2", None)
        self._trim = getattr(libc, "malloc_trim", None)
        if self._info is not None:
            self._info.restype = _HeapInfo

    def used_bytes(self) -> int:
        """Memory in use: what is allocated, and the files that are mapped and in RAM."""
        return resident_bytes() if self._info is None else self._allocated() + _resident("RssFile")

    def give_back(self, *, serving: bool) -> bool:
        """Hands freed memory back to the system where more of it is kept than may be. Blocks.

        Args:
            serving: Whether calls come, so that more may be kept.

        Returns:
            Whether what is kept is as little as on a runner that serves no calls.
        """
        if self._info is None or self._trim is None:
            return True
        kept_bytes = _resident("RssAnon") - self._allocated()
        if kept_bytes > (self._kept_serving_bytes if serving else KEPT_BYTES):
            self._trim(0)
            return True
        return kept_bytes <= KEPT_BYTES

    def _allocated(self) -> int:
        assert self._info is not None, "only asked where the library tells"
        info = self._info()
        return int(info.uordblks) + int(info.hblkhd)


def kept_serving_bytes(memory_bytes: int) -> int:
    """Freed memory that a runner keeps while it serves calls: an eighth of its memory, within bounds."""
    return max(KEPT_BYTES, min(_KEPT_MAX_BYTES, memory_bytes // 8))


def _resident(kind: str) -> int:
    """Pages of one kind in RAM, as `/proc/self/status` names it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return int(value.split()[0]) * _KIB
    return 0
