"""Protobuf messages that are used again instead of made anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

_USES_MAX = 256
_BYTES_MAX = 1 << 20


class ReusedMessage(Generic[M]):
    """Gives the same message, cleared, for a while, and then a new one.

    Each new top-level message is an arena, and protobuf's C code gives all of the process's free memory back to the
    system with every 10,000th arena: the next large tensor then waits for tens of thousands of page faults. A cleared
    message keeps its arena, which only grows, so a message serves a bounded number of times and bytes.
    """

    def __init__(self, make: Callable[[], M]) -> None:
        self._make = make
        self._message = make()
        self._uses = 0
        self._bytes = 0

    def take(self, size_bytes: int) -> M:
        """An empty message for about `size_bytes` of content. What was taken before must not be read any more.

        One for much content is not kept: its owner may be idle for long.
        """
        if size_bytes > _BYTES_MAX:
            return self._make()
        self._uses += 1
        self._bytes += size_bytes
        if self._uses > _USES_MAX or self._bytes > _BYTES_MAX:
            self._message = self._make()
            self._uses, self._bytes = 1, size_bytes
        else:
            self._message.Clear()
        return self._message
