"""What models take of the C library's heap, and when freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import ClassVar

from headrace_common.allocator import KEPT_BYTES
from headrace_runner.device import resident_bytes

_KIB = 1 << 10


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

    Handing memory back locks the whole heap, and everything that allocates waits for it: about 50 ms for the 300 MiB
    that reading a model of that size leaves behind. So that is done only when more is kept than services keep anyway,
    and memory is measured by what is allocated, which needs no such order.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._info = getattr(libc, "mallinfo2", None)
        self._trim = getattr(libc, "malloc_trim", None)
        if self._info is not None:
            self._info.restype = _HeapInfo

    def used_bytes(self) -> int:
        """Memory in use: what is allocated, and the files that are mapped and in RAM."""
        return resident_bytes() if self._info is None else self._allocated() + _resident("RssFile")

    def give_back(self, kept_bytes: int = KEPT_BYTES) -> bool:
        """Hands freed memory back to the system where more than `kept_bytes` of it are kept. Blocks.

        Returns:
            Whether it did.
        """
        if self._info is None or self._trim is None or _resident("RssAnon") - self._allocated() <= kept_bytes:
            return False
        self._trim(0)
        return True

    def _allocated(self) -> int:
        assert self._info is not None, "only asked where the library tells"
        info = self._info()
        return int(info.uordblks) + int(info.hblkhd)


def _resident(kind: str) -> int:
    """Pages of one kind in RAM, as `/proc/self/status` names it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return int(value.split()[0]) * _KIB
    return 0
