"""The hardware under this process."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from pathlib import Path

from headrace.runner.internal.v1.mesh_pb2 import Device
from headrace_common.clock import Clock

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def available_cpus() -> int:
    """Processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_limit_bytes() -> int:
    """Memory that this process may use: the machine's, or the control group's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; its peak where the system tells no more."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def return_freed_memory() -> None:
    """Hands memory that was freed back to the system, where the C library can; it keeps it for itself otherwise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def describe_cpu() -> Device:
    """This machine's processor as a device."""
    return Device(type="cpu", name=_processor_name(), memory_bytes=memory_limit_bytes())


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class CpuGauges:
    """Gauges of the processor for heartbeats.

    Args:
        threads: Processors that count as full use.
    """

    def __init__(self, *, threads: int, clock: Clock) -> None:
        self._threads = threads
        self._clock = clock
        self._read_at_s = clock.monotonic()
        self._cpu_s = _cpu_seconds()

    def read(self) -> dict[str, float]:
        """`utilization_ratio` since the reading before (0 to 1 of the threads) and `memory_used_bytes`."""
        now_s, cpu_s = self._clock.monotonic(), _cpu_seconds()
        span_s = now_s - self._read_at_s
        ratio = (cpu_s - self._cpu_s) / (span_s * self._threads) if span_s > 0 else 0.0
        self._read_at_s, self._cpu_s = now_s, cpu_s
        return {"utilization_ratio": min(1.0, ratio), "memory_used_bytes": float(resident_bytes())}


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system
