"""One byte budget for all large messages that a process receives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from headrace_common.allocator import HUGE_BYTES


class ByteBudget:
    """Sets bytes aside for whole messages, first come first served, so that no half-sent messages block each other.

    Shared by all sessions of a process: however many peers offer, at most `total_bytes` are set aside. A message that
    waits at the head blocks later ones, even smaller ones, so that it can't starve.

    Attributes:
        huge: Huge messages so far.
    """

    def __init__(self, *, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.huge = 0
        self._held: dict[Hashable, int] = {}
        self._held_bytes = 0
        self._waiting: OrderedDict[Hashable, tuple[int, Callable[[], None]]] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """Bytes set aside now."""
        return self._held_bytes

    @property
    def waiting(self) -> int:
        """Messages that wait for room."""
        return len(self._waiting)

    def request(self, key: Hashable, payload_bytes: int, granted: Callable[[], None]) -> None:
        """Asks for room; `granted` is called, possibly at once, when it has been set aside.

        The caller has checked that `payload_bytes` is at most `total_bytes`; a larger request would wait for ever.
        """
        self._waiting[key] = (payload_bytes, granted)
        self.huge += payload_bytes >= HUGE_BYTES
        self._serve()

    def release(self, key: Hashable) -> None:
        """Gives the room back, or stops waiting for it. Unknown keys are ignored, so it can be called twice."""
        held = self._held.pop(key, None)
        if held is not None:
            self._held_bytes -= held
        else:
            self._waiting.pop(key, None)
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            key, (payload_bytes, granted) = next(iter(self._waiting.items()))
            if self._held_bytes + payload_bytes > self.total_bytes:
                return
            del self._waiting[key]
            self._held[key] = payload_bytes
            self._held_bytes += payload_bytes
            granted()
