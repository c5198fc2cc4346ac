"""The hardware under this process."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Protocol

from headrace.runner.internal.v1.mesh_pb2 import Device
from headrace_common.clock import Clock
from headrace_runner.nvidia import open_card

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


class Gauges(Protocol):
    """Reads a device for heartbeats."""

    def read(self) -> dict[str, float]:
        """`utilization_ratio` (0 to 1) and `memory_used_bytes`, as far as the device tells them. Doesn't block."""
        ...


class NoGauges:
    """Of a device that tells nothing."""

    def read(self) -> dict[str, float]:
        return {}


def open_device(device_type: str, *, threads: int, clock: Clock) -> tuple[Device, Gauges]:
    """The device under this process and its gauges. Name and memory are empty where the device doesn't tell them.

    Args:
        device_type: `cpu`, `cuda`, `tpu` or `npu`; that a backend can compute on it is known already.
        threads: Processors that count as full use.
        clock: Tells the spans that gauges are means of.
    """
    if device_type == "cpu":
        return describe_cpu(), CpuGauges(threads=threads, clock=clock)
    if device_type == "cuda" and (card := open_card()) is not None:
        return Device(type=device_type, name=card.name, memory_bytes=card.memory_bytes), card
    return Device(type=device_type), NoGauges()


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
