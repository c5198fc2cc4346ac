"""The calls of one `ModelStreamInfer` stream: one request a message in, one answer or a part of it a message out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from headrace_common import wire
from headrace_common.errors import HeadraceError, ValidationError
from headrace_common.principal import Principal
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.rpc_status import to_status
from headrace_gateway.accounting.call_accounts import STREAM
from headrace_gateway.inference.call import TIMEOUT_MAX_S, Caller, InferenceCall, Outcome
from headrace_gateway.inference.execution import execution_parameters
from headrace_gateway.inference.generation.answer_parts import PART_OVERHEAD_BYTES, UNREAD_BYTES_MAX
from headrace_gateway.inference.handler import InferenceHandler
from headrace_gateway.inference.message_bounds import STREAM_ID_CHARS, reader_too_slow
from headrace_gateway.inference.open_calls import OpenCalls
from headrace_gateway.inference.outlook import shutting_down
from headrace_gateway.inference.packed_stream import StreamLimits
from inference import open_inference_pb2 as oip

ERROR_AS_STATUS_KEY = "triton_grpc_error"
"""Metadata by which a client asks, with the value `true`, that the first failure ends the stream with its status."""
EXECUTION_KEY = "headrace-execution"
"""Metadata by which a client asks, with the value `true`, where each call ran: parameters of its last answer."""

_INFER_RESPONSE = 2
_ECHO_BYTES_MAX = 4_096
_FINAL = oip.ModelInferResponse(
    parameters={"triton_final_response": oip.InferParameter(bool_param=True)}
).SerializeToString()
"""Added to every answer but its parts, as Triton does. A model that generates, which Triton calls decoupled, ends with
an answer that has outputs, if only an empty text. So there is never an answer that a client would get only by
`triton_enable_empty_final_response`."""


class _Answer(NamedTuple):
    """A message of the call with that number, or the failure that is to end the stream; `ends` the call's last."""

    number: int
    message: bytes | HeadraceError
    ends: bool = True


class TritonStream:
    """Turns requests into calls and their outcomes into answers, as they finish; does no I/O itself. One event loop.

    Args:
        gate: Bounds the calls of all streams.
        principal: Who opened it.
        request_id: The stream's own; calls get it with their number added.
        ends_on_error: Whether the first failure ends the stream instead of being an answer.
        tells_execution: Whether the last answer of a call tells where it ran.
        wake: Called whenever `next_message` may have something.
        remaining_s: Tells the time left of the stream, None where it has no end.
    """

    def __init__(
        self,
        *,
        inference: InferenceHandler,
        gate: AdmissionGate,
        limits: StreamLimits,
        principal: Principal,
        request_id: str,
        traceparent: str,
        ends_on_error: bool,
        tells_execution: bool,
        wake: Callable[[], None],
        remaining_s: Callable[[], float | None],
    ) -> None:
        self._limits = limits
        self._principal = principal
        self._request_id = request_id
        self._traceparent = traceparent
        self._ends_on_error = ends_on_error
        self._tells_execution = tells_execution
        self._wake = wake
        self._remaining_s = remaining_s
        # Until its answer is in a message a call is in flight.
        self._open = OpenCalls(inference=inference, gate=gate)
        self._answers: deque[_Answer] = deque()
        # The part that is being written counts, too.
        self._parts_bytes = self._written_bytes = 0
        self._unread_bytes = 0
        self._refusing = False
        self.calls = 0
        self.failures = 0

    @property
    def in_flight(self) -> int:
        """Calls whose answer has not been taken for sending."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """All in flight as soon as one has an answer: a message carries one, so none waits for others to gather."""
        return len(self._open) if self._answers else 0

    @property
    def full(self) -> bool:
        """Whether nothing more should be read for now."""
        return len(self._open) >= self._limits.calls_max or self._open.held_bytes >= self._limits.bytes_max

    def on_message(self, received: bytes) -> Iterator[None]:
        """Begins a call, which is a portion of its own. One that can't begin is answered like one that fails."""
        self.calls += 1
        number = self.calls
        self._open.add(number)
        remaining_s = self._remaining_s()
        caller = Caller(
            self._principal.tenant_id,
            f"{self._request_id[:STREAM_ID_CHARS]}/{number}",
            self._traceparent,
            # The stream lives longer than its calls, so its deadline is none of theirs.
            timeout_s=None,
            within_s=TIMEOUT_MAX_S if remaining_s is None else remaining_s,
            subject=self._principal.subject,
            policies=self._principal.policies,
            kind=STREAM,
        )
        try:
            if self._refusing:
                raise shutting_down()
            self._open.begin(number, received, caller, self._ended, sink=self._part)
        except HeadraceError as error:
            self._fail(number, received, error)
            self._wake()
        return iter(())

    def next_message(self) -> bytes | None:
        """The next message for the client, or None when there is nothing to say.

        Raises:
            HeadraceError: A request failed, and the client wants the stream to end with that.
        """
        self._parts_bytes -= self._written_bytes
        self._written_bytes = 0
        if not self._answers:
            return None
        number, answer, ends = self._answers.popleft()
        if isinstance(answer, HeadraceError):
            raise answer
        self._unread_bytes -= len(answer)
        if ends:
            self._open.remove(number)
        else:
            self._written_bytes = len(answer) + PART_OVERHEAD_BYTES
        return answer

    def drain(self) -> None:
        """The server is stopping. This protocol has no word for it; `refuse_calls` follows."""

    def refuse_calls(self) -> None:
        """Requests that still come are answered with SERVER_DRAINING."""
        self._refusing = True
        self._wake()

    def close(self) -> None:
        """The stream has ended: cancels what is in flight."""
        self._open.close()
        self._answers.clear()

    def _part(self, call: InferenceCall, payload: bytes) -> None:
        message = _wrapped(payload)
        size = len(message) + PART_OVERHEAD_BYTES
        if self._parts_bytes + size > UNREAD_BYTES_MAX:
            call.meters.generation.readers_too_slow += 1
            self._drop_parts(call.tag)
            self._open.give_up(call, reader_too_slow(UNREAD_BYTES_MAX))
            return
        self._parts_bytes += size
        self._answer(call.tag, message, ends=False)
        self._wake()

    def _drop_parts(self, number: int) -> None:
        """Lets go of what waits to be read of a call."""
        kept: deque[_Answer] = deque()
        for answer in self._answers:
            if answer.number != number or isinstance(answer.message, HeadraceError):
                kept.append(answer)
            else:
                self._unread_bytes -= len(answer.message)
                self._parts_bytes -= len(answer.message) + PART_OVERHEAD_BYTES
        self._answers = kept

    def _ended(self, call: InferenceCall, outcome: Outcome) -> None:
        number, request = call.tag, self._open.ended(call)
        if isinstance(outcome, HeadraceError):
            self._fail(number, request, outcome)
        elif self._answers and self._unread_bytes + len(outcome.payload) > self._limits.unread_bytes_max:
            self._fail(number, request, reader_too_slow(self._limits.unread_bytes_max))
        else:
            last = _FINAL + execution_parameters(call, outcome) if self._tells_execution else _FINAL
            self._answer(number, _wrapped(outcome.payload, last))
        self._wake()

    def _fail(self, number: int, request: bytes, failure: HeadraceError) -> None:
        self.failures += 1
        if self._ends_on_error:
            self._answers.append(_Answer(number, failure))
        else:
            self._answer(number, _failed(request, failure, self._request_id))

    def _answer(self, number: int, message: bytes, *, ends: bool = True) -> None:
        self._unread_bytes += len(message)
        self._answers.append(_Answer(number, message, ends))


def _wrapped(response: bytes, more: bytes = b"") -> bytes:
    """A ModelStreamInferResponse around a serialised ModelInferResponse, which is not parsed, and more fields of it."""
    return b"".join((wire.len_field_header(_INFER_RESPONSE, len(response) + len(more)), response, more))


def _failed(request: bytes, failure: HeadraceError, correlation_id: str) -> bytes:
    """A ModelStreamInferResponse that tells of a failure, and of which request."""
    texts = _echo(request)
    response = oip.ModelInferResponse(
        model_name=texts.get(1, ""),
        model_version=texts.get(2, ""),
        id=texts.get(3, ""),
        parameters={
            "triton_final_response": oip.InferParameter(bool_param=True),
            "headrace_reason": oip.InferParameter(string_param=failure.reason),
        },
    )
    message = to_status(failure, correlation_id).message
    return oip.ModelStreamInferResponse(error_message=message, infer_response=response).SerializeToString()


def _echo(request: bytes) -> dict[int, str]:
    """Model, version and identifier of a request, as far as they can be read and are worth sending back."""
    texts: dict[int, str] = {}
    try:
        for number, _, value in wire.fields(request, fields_max=wire.REQUEST_FIELDS_MAX):
            if number <= 3:
                texts[number] = (
                    "" if isinstance(value, memoryview) and len(value) > _ECHO_BYTES_MAX else wire.text(value)
                )
    except ValidationError:
        pass
    return texts
