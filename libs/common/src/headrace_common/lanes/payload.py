"""Large payloads that are copied once where they come in and once where they go out, and never joined."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import TypeAlias

_PY_BUF_WRITE = 0x200

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
    """

    __slots__ = ("_payload", "_received_bytes", "_size_bytes", "_view")

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._received_bytes = 0
        self._payload: bytes = _new_bytes(None, size_bytes)
        self._view: memoryview = _view_of(_address_of(self._payload), size_bytes, _PY_BUF_WRITE)

    def append(self, part: memoryview) -> bool:
        """Takes the next part; False when there is no room for it, or nothing in it."""
        end = self._received_bytes + len(part)
        if not part or end > self._size_bytes:
            return False
        self._view[self._received_bytes : end] = part
        self._received_bytes = end
        return True

    def whole(self) -> bytes | None:
        """The payload, after which no part may come; None while parts are missing."""
        return self._payload if self._received_bytes == self._size_bytes else None


class PayloadParts:
    """A payload that lies in several buffers, such as a header and the tensors after it.

    Nobody may write to the buffers any more.

    Args:
        parts: Views of bytes, or bytes.
    """

    __slots__ = ("_size_bytes", "views")

    def __init__(self, parts: Iterable[bytes | memoryview]) -> None:
        self.views = tuple(memoryview(part) for part in parts if len(part))
        self._size_bytes = sum(map(len, self.views))

    def __len__(self) -> int:
        return self._size_bytes

    def __bytes__(self) -> bytes:
        return b"".join(self.views)


Payload: TypeAlias = bytes | memoryview | PayloadParts
