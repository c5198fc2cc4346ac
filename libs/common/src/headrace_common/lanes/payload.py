"""Large payloads that are copied once where they come in and once where they go out, and never joined."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import TypeAlias

_PY_BUF_WRITE = 0x200
# A cache line, which is more than any element needs.
_ALIGNMENT = 64
_JOINED_BYTES_MAX = 4_096

# From CPython's C API: a new bytes object may be written to until somebody else has seen it.
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))
_view_of = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)


class PayloadBuffer:
    """A payload of known size that arrives in parts, each copied to its place at once.

    To keep the parts and join them would take their size a second time, and block the event loop for milliseconds.

    Args:
        size_bytes: Of the whole payload; memory is taken as parts arrive.
        aligned: Whether the payload shall end at an aligned address. Then the tensor that comes last in it, which in
            large payloads is nearly all of it, is aligned and need not be copied to be computed on.
    """

    __slots__ = ("_memory", "_received_bytes", "_size_bytes", "_start", "_view")

    def __init__(self, size_bytes: int, *, aligned: bool) -> None:
        self._size_bytes = size_bytes
        self._received_bytes = 0
        self._memory: bytes = _new_bytes(None, size_bytes + (_ALIGNMENT - 1 if aligned else 0))
        address: int = _address_of(self._memory)
        self._start = -(address + size_bytes) % _ALIGNMENT if aligned else 0
        self._view: memoryview = _view_of(address + self._start, size_bytes, _PY_BUF_WRITE)

    def append(self, part: memoryview) -> bool:
        """Takes the next part; False when there is no room for it, or nothing in it."""
        end = self._received_bytes + len(part)
        if not part or end > self._size_bytes:
            return False
        self._view[self._received_bytes : end] = part
        self._received_bytes = end
        return True

    def whole(self) -> bytes | memoryview | None:
        """The payload, after which no part may come; None while parts are missing. Bytes unless aligned."""
        if self._received_bytes != self._size_bytes:
            return None
        if len(self._memory) == self._size_bytes:
            return self._memory
        return memoryview(self._memory)[self._start : self._start + self._size_bytes]


class PayloadParts:
    """A payload that lies in several buffers, such as a header and the tensors after it.

    Nobody may write to the buffers any more. Small neighbours are joined, as each buffer travels in frames of its own.

    Args:
        parts: Views of bytes, or bytes.
    """

    __slots__ = ("_size_bytes", "views")

    def __init__(self, parts: Iterable[bytes | memoryview]) -> None:
        self.views: list[memoryview] = []
        small: list[bytes | memoryview] = []
        for part in parts:
            if len(part) < _JOINED_BYTES_MAX:
                small.append(part)
            else:
                self._append(small)
                self.views.append(memoryview(part))
        self._append(small)
        self._size_bytes = sum(map(len, self.views))

    def __len__(self) -> int:
        return self._size_bytes

    def __bytes__(self) -> bytes:
        return b"".join(self.views)

    def _append(self, small: list[bytes | memoryview]) -> None:
        if joined := b"".join(small):
            self.views.append(memoryview(joined))
        small.clear()


Payload: TypeAlias = bytes | memoryview | PayloadParts
