"""What one end of a session receives: inline messages, offers and chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace_common.lanes.budget import ByteBudget
from headrace_common.lanes.chunks import Chunk
from headrace_common.lanes.credit import CreditGrant
from headrace_common.lanes.limits import LaneLimits
from headrace_common.lanes.payload import PayloadBuffer
from headrace_common.lanes.violation import LaneViolation

Header = TypeVar("Header")


@dataclass(slots=True)
class _Arriving(Generic[Header]):
    header: Header
    payload_bytes: int
    accepted: bool = False
    buffer: PayloadBuffer | None = None


class Inbox(Generic[Header]):
    """Counts what comes in against the credit granted, and puts chunked payloads together.

    Every message that came in, inline or offered, ends with exactly one `done`, which gives back its credit and its
    share of the byte budget. A chunk's bytes are copied to their place in the payload, which is the one copy of them.

    Args:
        limits: Sizes that both ends keep to.
        budget: Where room for large messages is set aside, shared with the other sessions of the process.
        wake: Called whenever `accepts` has something new to send.
        aligned: Whether chunked payloads are put together for computing on them, see `PayloadBuffer`.
    """

    def __init__(
        self, *, limits: LaneLimits, budget: ByteBudget, wake: Callable[[], None], aligned: bool = False
    ) -> None:
        self.grant = CreditGrant(messages_max=limits.window_messages, payload_bytes_max=limits.window_bytes)
        self._limits = limits
        self._budget = budget
        self._wake = wake
        self._aligned = aligned
        self._arriving: dict[int, _Arriving[Header]] = {}
        self._inline_bytes: dict[int, int] = {}
        self._offered: set[int] = set()
        self._last_offer_id = 0
        self._accepts: list[int] = []

    @property
    def open(self) -> int:
        """Messages that came in and are not done yet."""
        return len(self._inline_bytes)

    def message(self, call_id: int, payload_bytes: int) -> None:
        """Counts an inline message.

        Raises:
            LaneViolation: It came without credit, is too large to be inline, or its id is in use.
        """
        if payload_bytes > self._limits.inline_bytes_max:
            raise LaneViolation("inline payload over the limit")
        self._begin(call_id, payload_bytes)

    def offer(self, call_id: int, header: Header, payload_bytes: int) -> bool:
        """Takes note of an offer and accepts it as soon as the budget has room.

        Returns:
            False when the whole budget is too small for it: it is never accepted, and the caller answers it with a
            failure and `done`. The peer can't know this process's budget, so that is no violation.

        Raises:
            LaneViolation: It came without credit, is larger than a message may be, or its id is in use.
        """
        if payload_bytes > self._limits.message_bytes_max:
            raise LaneViolation("offered payload over the limit")
        self._begin(call_id, 0)
        self._last_offer_id = max(self._last_offer_id, call_id)
        if payload_bytes > self._budget.total_bytes:
            return False
        self._offered.add(call_id)
        arriving = self._arriving[call_id] = _Arriving(header, payload_bytes)

        def granted() -> None:
            arriving.accepted = True
            self._accepts.append(call_id)
            self._wake()

        self._budget.request((id(self), call_id), payload_bytes, granted)
        return True

    def chunk(self, chunk: Chunk) -> tuple[Header, bytes | memoryview] | None:
        """Takes the next part of an accepted message.

        Returns:
            Header and whole payload with the last part, None before it and for parts of a message that was done with
            before it was whole (late chunks). The payload is `bytes` unless it is aligned.

        Raises:
            LaneViolation: The message was never offered or not accepted, or has another length than offered.
        """
        arriving = self._arriving.get(chunk.id)
        if arriving is None:
            if chunk.id > self._last_offer_id:
                raise LaneViolation("chunk of a message that was not offered")
            return None
        if not arriving.accepted:
            raise LaneViolation("chunk of an offer that was not accepted")
        if arriving.buffer is None:
            arriving.buffer = PayloadBuffer(arriving.payload_bytes, aligned=self._aligned)
        fits = arriving.buffer.append(chunk.data)
        payload = arriving.buffer.whole() if chunk.last else None
        if not fits or (chunk.last and payload is None):
            raise LaneViolation("chunks do not add up to the offered size")
        if payload is None:
            return None
        del self._arriving[chunk.id]
        return arriving.header, payload

    def done(self, call_id: int) -> None:
        """Ends a message that came in: its credit and bytes are free again. Unknown ids are ignored."""
        inline = self._inline_bytes.pop(call_id, None)
        if inline is None:
            return
        self.grant.give_back(inline)
        if call_id in self._offered:
            self._offered.discard(call_id)
            self._arriving.pop(call_id, None)
            if call_id in self._accepts:
                self._accepts.remove(call_id)
            self._budget.release((id(self), call_id))

    def holds(self, call_id: int) -> bool:
        """Whether a message of that id came in and is not done yet."""
        return call_id in self._inline_bytes

    def accepts(self) -> list[int]:
        """Takes the ids whose offers are accepted and have not been told yet."""
        told, self._accepts = self._accepts, []
        return told

    def close(self) -> None:
        """Gives everything back to the shared budget when the session ends."""
        for call_id in list(self._inline_bytes):
            self.done(call_id)

    def _begin(self, call_id: int, inline_bytes: int) -> None:
        if call_id in self._inline_bytes:
            raise LaneViolation("id is in use")
        self._inline_bytes[call_id] = inline_bytes
        self.grant.receive(inline_bytes)
