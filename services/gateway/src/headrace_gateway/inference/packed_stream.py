"""The calls of one packed stream: what came in, what is in flight, which answers have to go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from headrace.gateway.internal.v1 import raw_inference_pb2 as raw
from headrace.gateway.v1.inference_pb2 import StreamLimits as StreamLimitsMessage
from headrace_common import catalogue, wire
from headrace_common.errors import DeadlineError, HeadraceError, ValidationError
from headrace_common.principal import Principal
from headrace_common.request_id import accept_request_id
from headrace_common.reused_message import ReusedMessage
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.rpc_status import to_status
from headrace_gateway.accounting.call_accounts import STREAM
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome, accept_traceparent
from headrace_gateway.inference.execution import write_response
from headrace_gateway.inference.handler import InferenceHandler
from headrace_gateway.inference.message_bounds import (
    STREAM_ID_CHARS,
    Repeated,
    check_counts,
    reader_too_slow,
    too_large,
    too_many,
)
from headrace_gateway.inference.open_calls import OpenCalls
from headrace_gateway.inference.outlook import shutting_down
from headrace_gateway.inference.request_fields import checked_priority
from headrace_gateway.mesh.session_calls import Answer

_ANSWERS_BYTES = 1 << 20
_PORTION_CALLS = 32
_REPEATED = {1: Repeated("calls"), 2: Repeated("cancels", packed=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """What one stream takes; see `headrace.gateway.v1.StreamLimits`.

    Attributes:
        unread_bytes_max: Bytes of answers that are kept for a client that doesn't read.
    """

    message_bytes_max: int
    default_timeout_s: float
    calls_max: int = 1_024
    bytes_max: int = 64 << 20
    calls_per_message_max: int = 1_024
    unread_bytes_max: int = 64 << 20


class PackedStream:
    """Turns a stream's messages into calls and their outcomes into messages; does no I/O itself. One event loop.

    Args:
        gate: Bounds the calls of all streams.
        principal: Who opened it.
        request_id: The stream's own; calls without one get it with their identifier added.
        wake: Called whenever `next_message` may have something.
    """

    def __init__(
        self,
        *,
        inference: InferenceHandler,
        gate: AdmissionGate,
        limits: StreamLimits,
        principal: Principal,
        request_id: str,
        wake: Callable[[], None],
    ) -> None:
        self._limits = limits
        self._principal = principal
        self._request_id = request_id
        self._wake = wake
        # Until its answer is in a message a call is in flight.
        self._open = OpenCalls(inference=inference, gate=gate)
        self._answers: deque[tuple[int, InferenceCall | None, Outcome]] = deque()
        self._unread_bytes = 0
        self._limits_told = False
        self._draining_due = False
        self._refusing = False
        self._incoming = ReusedMessage(raw.RawStreamRequest)
        self._outgoing = ReusedMessage(raw.RawStreamResponse)
        self.calls = 0
        self.failures = 0

    @property
    def in_flight(self) -> int:
        """Calls whose answer has not been taken for sending."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Answers for the next message."""
        return len(self._answers)

    @property
    def full(self) -> bool:
        """Whether nothing more should be read for now: the client has exceeded a limit. At the limits cancels pass."""
        calls = len(self._open)
        return calls > self._limits.calls_max or (self._open.held_bytes > self._limits.bytes_max and calls > 1)

    def on_message(self, received: bytes) -> Iterator[None]:
        """Begins and cancels what a client's message says. A call that can't begin is answered like one that fails.

        Yields between portions of it, when others should have their turn: runners compute what has come already.

        Raises:
            ValidationError: The message breaks the contract and the stream must end: MESSAGE_TOO_LARGE
                (RESOURCE_EXHAUSTED), REQUEST_MALFORMED, FIELD_TOO_LONG, CALL_ID_IN_USE (INVALID_ARGUMENT).
        """
        if len(received) > self._limits.message_bytes_max:
            raise too_large(len(received), self._limits.message_bytes_max)
        limit = self._limits.calls_per_message_max
        check_counts(received, _REPEATED, limit)
        message = self._incoming.take(len(received))
        try:
            message.MergeFromString(received)
        except DecodeError:
            raise wire.malformed() from None
        for field, count in (("calls", len(message.calls)), ("cancels", len(message.cancels))):
            if count > limit:
                raise too_many(field, count, limit)
        for index, call in enumerate(message.calls):
            if index and not index % _PORTION_CALLS:
                yield
            if call.id in self._open:
                raise ValidationError(
                    f"calls[{index}].id is {call.id}, which another call in flight on this stream has",
                    entry=catalogue.CALL_ID_IN_USE,
                    field=f"calls[{index}].id",
                    context={"field": f"calls[{index}].id", "id": call.id},
                )
            self._begin(call, index)
        for call_id in message.cancels:
            self._cancel(call_id)
        if self._answers:
            self._wake()

    def next_message(self) -> bytes | None:
        """The next message for the client, or None when there is nothing to say."""
        if not self._answers and self._limits_told and not self._draining_due:
            return None
        first = self._answers[0][2] if self._answers else None
        size = len(first.payload) if isinstance(first, Answer) else 0
        message = self._outgoing.take(max(size, min(self._unread_bytes, _ANSWERS_BYTES)))
        if not self._limits_told:
            self._limits_told = True
            self._write_limits(message.limits)
        message.draining, self._draining_due = self._draining_due, False
        room = _ANSWERS_BYTES
        while self._answers and room > 0:
            outcome = self._answers[0][2]
            if isinstance(outcome, Answer) and len(outcome.payload) > room < _ANSWERS_BYTES:
                break
            room -= self._write(*self._answers.popleft(), message)
        return message.SerializeToString()

    def _write(self, call_id: int, call: InferenceCall | None, outcome: Outcome, message: raw.RawStreamResponse) -> int:
        """Adds an answer to a message and returns about how many bytes that took."""
        self._open.remove(call_id)
        answer = message.answers.add()
        answer.id = call_id
        if isinstance(outcome, HeadraceError):
            answer.error = to_status(outcome, self._request_id).SerializeToString()
            return len(answer.error)
        assert call is not None, "only a call that began has an answer"
        write_response(answer.infer, call, outcome)
        self._unread_bytes -= len(outcome.payload)
        return len(outcome.payload)

    def drain(self) -> None:
        """The server is stopping: tells the client to open another stream."""
        self._draining_due = True
        self._wake()

    def refuse_calls(self) -> None:
        """The client has had time to notice `drain`: calls that still come are answered with SERVER_DRAINING."""
        self._refusing = True
        self._wake()

    def close(self) -> None:
        """The stream has ended: cancels what is in flight."""
        self._open.close()
        self._answers.clear()

    def _begin(self, call: raw.RawStreamCall, index: int) -> None:
        self.calls += 1
        call_id = call.id
        self._open.add(call_id)
        try:
            if self._refusing:
                raise shutting_down()
            request, caller = self._read(call, index)
            self._open.begin(call_id, request, caller, self._ended)
        except HeadraceError as error:
            self._answer(call_id, None, error)

    def _read(self, call: raw.RawStreamCall, index: int) -> tuple[bytes, Caller]:
        if not call.HasField("infer"):
            raise ValidationError(
                f"calls[{index}] says nothing to do; set infer",
                entry=catalogue.FIELD_REQUIRED,
                field=f"calls[{index}].infer",
                context={"field": f"calls[{index}].infer"},
            )
        infer = call.infer
        priority = None
        if infer.HasField("priority"):
            priority = checked_priority(infer.priority, f"calls[{index}].infer.priority")
        timeout_s = self._limits.default_timeout_s
        if call.HasField("timeout"):
            timeout_s = call.timeout.seconds + call.timeout.nanos / 1e9
            if timeout_s <= 0:
                raise DeadlineError(
                    "the call's deadline was over before any work began", entry=catalogue.DEADLINE_ALREADY_OVER
                )
        request_id = call.request_id
        caller = Caller(
            self._principal.tenant_id,
            accept_request_id(request_id) if request_id else f"{self._request_id[:STREAM_ID_CHARS]}/{call.id}",
            accept_traceparent(call.traceparent) if call.traceparent else "",
            timeout_s,
            priority,
            subject=self._principal.subject,
            policies=self._principal.policies,
            kind=STREAM,
        )
        return infer.request, caller

    def _cancel(self, call_id: int) -> None:
        call = self._open.cancel(call_id)
        if call is not None:
            self._ended(call, DeadlineError("the call was cancelled", entry=catalogue.CALL_CANCELLED))

    def _ended(self, call: InferenceCall, outcome: Outcome) -> None:
        self._open.ended(call)
        if not isinstance(outcome, HeadraceError):
            self._unread_bytes += len(outcome.payload)
            if self._unread_bytes > self._limits.unread_bytes_max and self._answers:
                self._unread_bytes -= len(outcome.payload)
                outcome = reader_too_slow(self._limits.unread_bytes_max)
        self._answer(call.tag, call, outcome)
        self._wake()

    def _answer(self, call_id: int, call: InferenceCall | None, outcome: Outcome) -> None:
        self.failures += isinstance(outcome, HeadraceError)
        self._answers.append((call_id, call, outcome))

    def _write_limits(self, into: StreamLimitsMessage) -> None:
        limits = self._limits
        into.calls_max = limits.calls_max
        into.bytes_max = limits.bytes_max
        into.calls_per_message_max = limits.calls_per_message_max
        into.message_bytes_max = limits.message_bytes_max
        into.default_timeout.FromNanoseconds(int(limits.default_timeout_s * 1e9))
