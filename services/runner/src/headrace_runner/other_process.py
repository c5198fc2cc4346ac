"""What another process has computed, and whether it gives way. On Linux; elsewhere nothing is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
# Of `/proc/PID/stat` behind the name, which is in brackets: user and system time.
_USER, _SYSTEM = 11, 12


def computed_by(process: int) -> float:
    """Processor time that a process has had in all its threads, in seconds; 0 where that can't be told."""
    try:
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_PER_S


def set_priority(process: int, change: Callable[[int], None]) -> None:
    """Lets all threads of a process give way, or compete."""
    # The process may be gone, a thread may have ended, or it is not allowed.
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with suppress(OSError):
                change(int(thread.name))
