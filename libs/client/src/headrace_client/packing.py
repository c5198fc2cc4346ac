"""Which calls ride the next message of a packed stream, and which call an answer is for.

No I/O and no clock. Three parts: a `Call` is at one place at a time, with the `WaitingCalls` or on a `WireStream`; once
it is at none it is over, and nobody will hear of it again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from headrace_client.contracts.google.protobuf.duration_pb2 import Duration
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import StreamAnswer, StreamResponse

Owner = TypeVar("Owner")
_CALLS_TAG = b"\x0a"  # StreamRequest.calls
_CANCELS_TAG = b"\x12"  # StreamRequest.cancels, packed
_ID_TAG = b"\x08"  # StreamCall.id
_TIMEOUT_TAG = b"\x22"  # StreamCall.timeout
_INFER_TAG = b"\x12"  # StreamCall.infer
# Tag and length of a call in a message and of its inference, its id and its timeout, at their longest.
_CALL_OVERHEAD_BYTES_MAX = 6 + 6 + 11 + 16
_CANCEL_BYTES_MAX = 10
# A message with several calls grows no further: the server begins with the first when all of it is there.
_SHARED_MESSAGE_BYTES = 1 << 20


class Call(Generic[Owner]):
    """A call and where it is. Compared by identity.

    Attributes:
        infer: A serialised `InferRequest`; the same bytes in every try.
        extra: Further fields of its `StreamCall`, serialised.
        size: Bytes that it may take in a message at most.
        deadline: When its time is over, on the clock that `pack` is given.
        owner: Whoever waits for the outcome.
        repeatable: Whether it may be tried again.
        tries: How often it was sent.
        place: Where it is; None before `push` and when it is over.
        id: Of the current try, while it is on a stream.
    """

    __slots__ = ("deadline", "extra", "id", "infer", "owner", "place", "repeatable", "size", "tries")

    def __init__(
        self, *, infer: bytes, deadline: float, owner: Owner, extra: bytes = b"", repeatable: bool = True
    ) -> None:
        self.infer = infer
        self.extra = extra
        self.size = len(infer) + len(extra) + _CALL_OVERHEAD_BYTES_MAX
        self.deadline = deadline
        self.owner = owner
        self.repeatable = repeatable
        self.tries = 0
        self.place: WaitingCalls[Owner] | WireStream[Owner] | None = None
        self.id = 0

    def withdraw(self) -> None:
        """Ends it without an outcome, because its owner waits no more. Does nothing when it is over."""
        if self.place is not None:
            self.place.withdraw(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingLimits:
    """What the server takes; see `headrace.gateway.v1.StreamLimits`."""

    calls_max: int
    bytes_max: int
    calls_per_message_max: int
    message_bytes_max: int


class WaitingCalls(Generic[Owner]):
    """Calls that are on no stream: first come, first sent; those that come back from a broken stream go before.

    Bounded for new calls. Calls that come back count, but are always taken.
    """

    def __init__(self, *, calls_max: int, bytes_max: int) -> None:
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._ready: OrderedDict[Call[Owner], None] = OrderedDict()
        self._deferred: set[Call[Owner]] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._ready) + len(self._deferred)

    @property
    def ready(self) -> int:
        """Calls that may be sent now."""
        return len(self._ready)

    def has_room(self, size: int) -> bool:
        """Whether a new call of that size may be pushed; a single one may be of any size."""
        calls = len(self)
        return not calls or (calls < self._calls_max and self._bytes + size <= self._bytes_max)

    def push(self, call: Call[Owner]) -> None:
        """Takes a new call, last in the queue."""
        call.place = self
        self._ready[call] = None
        self._bytes += call.size

    def push_first(self, calls: Iterable[Call[Owner]]) -> None:
        """Takes calls that are to be tried again at once, before all others and in their order."""
        for call in reversed(list(calls)):
            self.push(call)
            self._ready.move_to_end(call, last=False)

    def defer(self, call: Call[Owner]) -> None:
        """Takes a call that is to be tried again later: from `resume` on."""
        call.place = self
        self._deferred.add(call)
        self._bytes += call.size

    def resume(self, call: Call[Owner]) -> None:
        """Lets a deferred call be sent; does nothing for one that is over."""
        if call in self._deferred:
            self._deferred.remove(call)
            self._ready[call] = None

    def first(self) -> Call[Owner] | None:
        """The call to send next."""
        return next(iter(self._ready), None)

    def withdraw(self, call: Call[Owner]) -> None:
        """Drops a call that is here."""
        if call in self._deferred:
            self._deferred.remove(call)
        else:
            del self._ready[call]
        self._bytes -= call.size
        call.place = None

    def take_all(self) -> list[Call[Owner]]:
        """Takes every call, because none of them can be sent any more."""
        calls = [*self._ready, *self._deferred]
        for call in calls:
            self.withdraw(call)
        return calls


class WireStream(Generic[Owner]):
    """One stream to the server: its window, and the calls in it.

    Args:
        waiting: Where calls come from.
        limits: What the server's first message said.

    Attributes:
        draining: The server wants new calls elsewhere; set by its message.
        has_answered: Whether a call was answered.
    """

    def __init__(self, *, waiting: WaitingCalls[Owner], limits: PackingLimits) -> None:
        self.draining = False
        self.has_answered = False
        self._waiting = waiting
        self._limits = limits
        self._last_id = 0
        self._in_flight: dict[int, Call[Owner]] = {}
        self._bytes = 0
        self._cancels: list[int] = []
        self._too_large: list[Call[Owner]] = []

    @property
    def in_flight(self) -> int:
        """Calls sent and not answered, those that were withdrawn meanwhile included."""
        return len(self._in_flight)

    def pack(self, now: float) -> bytes | None:
        """Takes what may be sent now as one serialised `StreamRequest`; None when nothing may."""
        parts: list[bytes] = []
        room = min(self._limits.message_bytes_max, _SHARED_MESSAGE_BYTES)
        if self._cancels:
            count = min(len(self._cancels), self._limits.calls_per_message_max, room // _CANCEL_BYTES_MAX)
            ids = b"".join(map(_varint, self._cancels[:count]))
            del self._cancels[:count]
            parts += (_CANCELS_TAG, _varint(len(ids)), ids)
            room -= len(ids) + 6
        if not self.draining and self._waiting.ready:
            self._pack_calls(parts, room, now)
        return b"".join(parts) if parts else None

    def _pack_calls(self, parts: list[bytes], room: int, now: float) -> None:
        limits, waiting, in_flight = self._limits, self._waiting, self._in_flight
        left = min(limits.calls_per_message_max, limits.calls_max - len(in_flight))
        while left > 0 and (call := waiting.first()) is not None:
            size = call.size
            if size > limits.message_bytes_max:
                waiting.withdraw(call)
                self._too_large.append(call)
                continue
            if size > room and parts:
                return
            if in_flight and self._bytes + size > limits.bytes_max:
                return
            waiting.withdraw(call)
            self._last_id = call_id = self._last_id + 1
            call.place, call.id = self, call_id
            call.tries += 1
            in_flight[call_id] = call
            self._bytes += size
            room -= size
            left -= 1
            infer, extra = call.infer, call.extra
            head = _head(call_id, call.deadline - now, len(infer))
            parts += (_CALLS_TAG, _varint(len(head) + len(infer) + len(extra)), head, infer, extra)

    def take_too_large(self) -> list[Call[Owner]]:
        """Takes the calls that `pack` found to fit into no message; they are over."""
        calls, self._too_large = self._too_large, []
        return calls

    def withdraw(self, call: Call[Owner]) -> None:
        """Asks the server to cancel a call that is here; its answer, which frees its room, will be dropped."""
        self._cancels.append(call.id)
        call.place = None
        call.infer = call.extra = b""

    def received(self, response: StreamResponse) -> list[tuple[Call[Owner], StreamAnswer]]:
        """Takes a message of the server.

        Returns:
            The answers with their calls, which are over. Answers to withdrawn calls, and those to ids that were never
            sent or are answered already, are left out.
        """
        if response.draining:
            self.draining = True
        answered: list[tuple[Call[Owner], StreamAnswer]] = []
        for answer in response.answers:
            call = self._in_flight.pop(answer.id, None)
            if call is None:
                continue
            self.has_answered = True
            self._bytes -= call.size
            if call.place is self:
                call.place = None
                answered.append((call, answer))
        return answered

    def ended(self) -> list[Call[Owner]]:
        """Takes the calls that the stream's end left without an answer, in the order they were sent."""
        unanswered = [call for call in self._in_flight.values() if call.place is self]
        for call in unanswered:
            call.place = None
        self._in_flight.clear()
        self._cancels.clear()
        self._bytes = 0
        return unanswered


def _head(call_id: int, timeout_s: float, infer_bytes: int) -> bytes:
    timeout = _timeout_field(max(1, math.ceil(timeout_s * 1000)))
    return b"".join((_ID_TAG, _varint(call_id), timeout, _INFER_TAG, _varint(infer_bytes)))


# Calls that wait together have about the same time left.
@lru_cache(maxsize=4096)
def _timeout_field(timeout_ms: int) -> bytes:
    duration = Duration(seconds=timeout_ms // 1000, nanos=timeout_ms % 1000 * 1_000_000).SerializeToString()
    return _TIMEOUT_TAG + _varint(len(duration)) + duration


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))
