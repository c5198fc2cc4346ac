"""NVIDIA cards by the libraries that come with the driver: what a card is, how busy it is, whether CUDA finds one.

Source: NVML API reference, https://docs.nvidia.com/deploy/nvml-api/; CUDA driver API.
"""

from __future__ import annotations

import ctypes
import os

_LIBRARY = "libnvidia-ml.so.1"
_NAME_BYTES = 96


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class NvidiaCard:
    """One card.

    Args:
        library: The management library, initialised.
        handle: The card's handle in it.
    """

    def __init__(self, *, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._library = library
        self._handle = handle
        name = ctypes.create_string_buffer(_NAME_BYTES)
        found = library.nvmlDeviceGetName(handle, name, ctypes.c_uint(_NAME_BYTES)) == 0
        self.name = name.value.decode(errors="replace") if found else ""
        memory = self._memory()
        self.memory_bytes = int(memory.total) if memory is not None else 0

    def read(self) -> dict[str, float]:
        """`utilization_ratio` over about the last second, and `memory_used_bytes` of all processes on the card."""
        gauges: dict[str, float] = {}
        use = _Utilization()
        if self._library.nvmlDeviceGetUtilizationRates(self._handle, ctypes.byref(use)) == 0:
            gauges["utilization_ratio"] = use.gpu / 100
        memory = self._memory()
        if memory is not None:
            gauges["memory_used_bytes"] = float(memory.used)
        return gauges

    def _memory(self) -> _Memory | None:
        memory = _Memory()
        return memory if self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory)) == 0 else None


def open_card() -> NvidiaCard | None:
    """The first card that this process may use (CUDA_VISIBLE_DEVICES); None where there is no driver or no card."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    if library.nvmlInit_v2() != 0:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    handle = ctypes.c_void_p()
    if visible.startswith("GPU-"):
        found = library.nvmlDeviceGetHandleByUUID(visible.encode(), ctypes.byref(handle))
    else:
        index = int(visible) if visible.isdigit() else 0
        found = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle))
    return NvidiaCard(library=library, handle=handle) if found == 0 else None


def has_cuda_device() -> bool:
    """Whether this process may use a CUDA device. Takes no memory on it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
