"""Parts of answers on their way to a gateway."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

UNSENT_BYTES_MAX = 1 << 20
"""Bytes of one call's parts that may wait."""
# What the fields of a part take in a frame beside its payload, at most.
_HEADER_BYTES = 64


class Part(NamedTuple):
    """A part of the answer to a call."""

    call_id: int
    attempt: int
    payload: bytes

    @property
    def frame_bytes(self) -> int:
        """What it takes in a frame, at most."""
        return len(self.payload) + _HEADER_BYTES


class PartQueue:
    """Parts by call: those of one call in order, calls in turns. Bounded by call, as parts need no credit."""

    def __init__(self) -> None:
        self._by_call: OrderedDict[int, deque[Part]] = OrderedDict()
        self._unsent_bytes: dict[int, int] = {}

    def __len__(self) -> int:
        """Calls of which parts wait."""
        return len(self._by_call)

    def push(self, call_id: int, attempt: int, payload: bytes) -> bool:
        """Queues a part; False when too much of its call waits already."""
        unsent_bytes = self._unsent_bytes.get(call_id, 0) + len(payload)
        if unsent_bytes > UNSENT_BYTES_MAX:
            return False
        self._unsent_bytes[call_id] = unsent_bytes
        self._by_call.setdefault(call_id, deque()).append(Part(call_id, attempt, payload))
        return True

    def pack(self, room: int) -> list[Part]:
        """Takes the next parts, of `room` bytes in a frame or only one."""
        taken: list[Part] = []
        while self._by_call:
            call_id, parts = next(iter(self._by_call.items()))
            part = parts[0]
            room -= part.frame_bytes
            if room < 0 and taken:
                break
            taken.append(parts.popleft())
            self._unsent_bytes[call_id] -= len(part.payload)
            if parts:
                self._by_call.move_to_end(call_id)
            else:
                self.drop(call_id)
        return taken

    def drop(self, call_id: int) -> None:
        """Forgets what is left of a call."""
        if self._by_call.pop(call_id, None) is not None:
            del self._unsent_bytes[call_id]
