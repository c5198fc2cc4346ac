"""What processes have used: processor time and the most memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

_RESET_PEAK = "5"


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time of these processes so far, user and system."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


def forget_peak(pids: Iterable[int]) -> None:
    """Let `rss_peak_mib` count from now; where the system can't, it counts from the process's start."""
    for pid in pids:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
        except OSError:
            return


def rss_peak_mib(pids: Iterable[int]) -> float:
    """Sum of the processes' largest resident sizes; their present ones where the system keeps no peak."""
    return sum(map(_peak_bytes, pids)) / (1 << 20)


def _peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return psutil.Process(pid).memory_info().rss
    (kib,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(kib) << 10
