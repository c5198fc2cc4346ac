"""What one end of a session has to send, and what of it may go into the next frame."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace_common.lanes.chunks import Chunk
from headrace_common.lanes.credit import CreditWindow
from headrace_common.lanes.limits import LaneLimits
from headrace_common.lanes.payload import Payload, PayloadParts

Header = TypeVar("Header")


@dataclass(slots=True)
class Parcel(Generic[Header]):
    """A message on its way out: its call's id, its header, its payload.

    Attributes:
        offered: Whether the payload travels as chunks, because it is too large to go inline.
    """

    id: int
    header: Header
    payload: Payload
    offered: bool


@dataclass(slots=True)
class _Sending(Generic[Header]):
    """A message that was accepted; `unsent` is what of its payload has not left, in order."""

    parcel: Parcel[Header]
    unsent: deque[memoryview]


@dataclass(frozen=True, slots=True)
class Withdrawn(Generic[Header]):
    """A message that was taken back; `unseen` when the receiver has not even heard of it."""

    header: Header
    unseen: bool


class Outbox(Generic[Header]):
    """Queues messages until credit lets them go, then packs them into frames.

    Inline messages and offers leave in the order of `push`. Chunks of accepted messages take turns, one chunk each, so
    a huge tensor delays a large one by a factor and not by its whole length.
    """

    def __init__(self, *, limits: LaneLimits) -> None:
        self.credit = CreditWindow()
        self._limits = limits
        self._queued: deque[Parcel[Header]] = deque()
        self._queued_bytes = 0
        self._offered: dict[int, Parcel[Header]] = {}
        self._sending: OrderedDict[int, _Sending[Header]] = OrderedDict()

    @property
    def queued(self) -> int:
        """Messages for the next small frames."""
        return len(self._queued)

    @property
    def sending(self) -> bool:
        """Whether `next_chunk` has something."""
        return bool(self._sending)

    @property
    def pending(self) -> int:
        """Messages that have not left whole."""
        return len(self._queued) + len(self._offered) + len(self._sending)

    def has_room(self, payload_bytes: int) -> bool:
        """Whether a message pushed now would have credit at once, those that wait before it counted."""
        inline = payload_bytes if payload_bytes <= self._limits.inline_bytes_max else 0
        return self.credit.messages_left > len(self._queued) and self.credit.bytes_left >= self._queued_bytes + inline

    def push(self, call_id: int, header: Header, payload: Payload) -> None:
        """Queues a message of at most `message_bytes_max` bytes, which the caller has checked."""
        offered = len(payload) > self._limits.inline_bytes_max
        self._queued.append(Parcel(call_id, header, payload, offered))
        self._queued_bytes += 0 if offered else len(payload)

    def pack(self, *, taken_bytes: int = 0) -> list[Parcel[Header]]:
        """Takes the messages for the next small frame: as many as have credit and fit into a frame, maybe none.

        Args:
            taken_bytes: How much of the frame is taken already; the largest message must still fit.
        """
        parcels: list[Parcel[Header]] = []
        room = self._limits.frame_bytes_max - taken_bytes
        while self._queued and self._fits(self._queued[0]):
            parcel = self._queued[0]
            inline = 0 if parcel.offered else len(parcel.payload)
            room -= inline + self._limits.header_bytes_max
            if room < 0 and parcels:
                break
            self._queued.popleft()
            self._queued_bytes -= inline
            self.credit.spend(inline)
            if parcel.offered:
                self._offered[parcel.id] = parcel
            parcels.append(parcel)
        return parcels

    def accepted(self, call_id: int) -> None:
        """The receiver has set the bytes of an offer aside. Ignored when the message was withdrawn meanwhile."""
        parcel = self._offered.pop(call_id, None)
        if parcel is not None:
            payload = parcel.payload
            views = payload.views if isinstance(payload, PayloadParts) else (memoryview(payload),)
            self._sending[call_id] = _Sending(parcel, deque(views))

    def next_chunk(self) -> Chunk | None:
        """Takes the next part of the accepted message whose turn it is, or None when there is none."""
        if not self._sending:
            return None
        call_id, sending = next(iter(self._sending.items()))
        head = sending.unsent.popleft()
        if len(head) > self._limits.chunk_bytes:
            sending.unsent.appendleft(head[self._limits.chunk_bytes :])
        last = not sending.unsent
        if last:
            del self._sending[call_id]
        else:
            self._sending.move_to_end(call_id)
        return Chunk(call_id, head[: self._limits.chunk_bytes], last)

    def withdraw(self, call_id: int) -> Withdrawn[Header] | None:
        """Drops what is left of a message; None when it is not here, because it left whole or was never pushed."""
        parcel = self._drop_offered(call_id)
        if parcel is not None:
            return Withdrawn(parcel.header, unseen=False)
        for index, queued in enumerate(self._queued):
            if queued.id == call_id:
                del self._queued[index]
                self._queued_bytes -= 0 if queued.offered else len(queued.payload)
                return Withdrawn(queued.header, unseen=True)
        return None

    def answered(self, call_id: int) -> None:
        """The receiver has ended the call: what is left of a message that it was offered need not go."""
        self._drop_offered(call_id)

    def _drop_offered(self, call_id: int) -> Parcel[Header] | None:
        sending = self._sending.pop(call_id, None)
        return sending.parcel if sending is not None else self._offered.pop(call_id, None)

    def _fits(self, parcel: Parcel[Header]) -> bool:
        return self.credit.fits(0 if parcel.offered else len(parcel.payload))
