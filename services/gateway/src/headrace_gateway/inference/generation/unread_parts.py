"""The messages of one stream that its client has yet to read."""

from __future__ import annotations

import asyncio
from collections import deque

from headrace_gateway.inference.generation.answer_parts import PART_OVERHEAD_BYTES, UNREAD_BYTES_MAX


class UnreadParts:
    """A bounded queue between whoever tells parts and the one who writes them. One event loop.

    Args:
        bytes_max: What the messages may take together; the one that is being written counts until it has gone.
    """

    def __init__(self, *, bytes_max: int = UNREAD_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._messages: deque[bytes] = deque()
        self._taken_bytes = 0
        self._held_bytes = 0
        self._more = asyncio.Event()
        self._closed = False

    def add(self, message: bytes) -> bool:
        """Queues a message; False when it is one too many, which is to end the stream."""
        size = len(message) + PART_OVERHEAD_BYTES
        if self._held_bytes + size > self._bytes_max:
            return False
        self._held_bytes += size
        self._messages.append(message)
        self._more.set()
        return True

    def drop(self) -> None:
        """Nobody is going to read them: lets go of all but the one that is being written."""
        self._messages.clear()
        self._held_bytes = self._taken_bytes

    def close(self) -> None:
        """No more messages come."""
        self._closed = True
        self._more.set()

    async def next(self) -> bytes | None:
        """Waits for the next message, which has gone when it is called again; None when there are no more."""
        self._held_bytes -= self._taken_bytes
        self._taken_bytes = 0
        while not self._messages:
            if self._closed:
                return None
            self._more.clear()
            await self._more.wait()
        message = self._messages.popleft()
        self._taken_bytes = len(message) + PART_OVERHEAD_BYTES
        return message
