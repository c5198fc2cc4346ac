"""The parts of an answer on their way from a runner to a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf.message import DecodeError

from headrace_common import catalogue
from headrace_common.errors import HeadraceError, InternalError, RunnerError
from headrace_gateway.inference.generation.generation_meters import GenerationMeters
from headrace_gateway.inference.resilience import failures
from inference import open_inference_pb2 as oip

if TYPE_CHECKING:
    from headrace_gateway.inference.call import InferenceCall, Outcome
    from headrace_gateway.mesh.session_calls import Answer

UNREAD_BYTES_MAX = 7 << 17
"""Bytes of parts that are kept for a stream whose client doesn't read: 1 MiB with what grpc has of them by then."""
PART_OVERHEAD_BYTES = 64
"""What a part takes in memory beside its bytes, so that many small ones are bounded like few large ones."""

Sink: TypeAlias = "Callable[[InferenceCall, bytes], None]"
"""Takes a message for the client. It must bound what it keeps, and may end the call."""


class AnswerParts:
    """Passes parts on as they come. What a client has of such an answer can't be continued. Pure: told the time.

    Args:
        request: What a runner is sent for the whole answer.
        sink: Gets the messages for the client.

    Attributes:
        begun: Whether the client has a part of the answer, so that it can't be begun anew.
        first_at: Reading of the monotonic clock when its first token came, 0 before; `first_s` is how long after the
            call was sent.
        attempt_first_s: How long after it was sent the attempt under way had its first token; None before.
        prompt_tokens: Tokens of the prompt, known at the end; `completion_tokens` are those generated so far.
        sent_bytes: Bytes of the messages that went to the client, but for the last.
    """

    def __init__(self, *, request: bytes, meters: GenerationMeters, sink: Sink) -> None:
        self.request = request
        self.meters = meters
        self.begun = False
        self.first_at = 0.0
        self.first_s = 0.0
        self.attempt_first_s: float | None = None
        self.last_at = 0.0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.sent_bytes = 0
        self._sink = sink

    def add(self, call: InferenceCall, payload: bytes, now: float) -> None:
        """A part came.

        Raises:
            LaneViolation: It is none.
        """
        self.count(call, 1, now)
        self.begun = True
        self.send(call, payload)

    def end(self, call: InferenceCall, outcome: Outcome, now: float) -> Outcome:
        """The call's outcome as the client is to be told it."""
        if isinstance(outcome, HeadraceError):
            return self._failed(call, outcome) if self.begun else outcome
        try:
            return self.last(call, outcome, now)
        except (DecodeError, ValueError):
            # Nobody would tell the client otherwise, whose call has ended here.
            return InternalError("the runner's answer can't be read")

    def last(self, call: InferenceCall, answer: Answer, now: float) -> Answer:
        """The answer with the client's last message in place of the runner's last part.

        Raises:
            DecodeError, ValueError: The runner's is none, or has numbers that can't be.
        """
        if not self.first_at:
            self.count(call, 1, now)
        try:
            parameters = oip.ModelInferResponse.FromString(answer.payload).parameters
        except DecodeError:
            # It goes to the client as it came.
            return answer
        self.used(parameters["prompt_tokens"].int64_param, parameters["completion_tokens"].int64_param)
        return answer

    def used(self, prompt_tokens: int, completion_tokens: int) -> None:
        """What the runner says at the end; less than what came of it can't be."""
        self.prompt_tokens = max(0, prompt_tokens)
        self.completion_tokens = max(self.completion_tokens, completion_tokens)

    @property
    def may_go_on(self) -> bool:
        """Whether another attempt can go on after what the client has."""
        return not self.begun

    def next_request(self) -> bytes:
        """What another attempt is sent. To be called once for each, while one `may_go_on`."""
        self.attempt_first_s = None
        return self.request

    def count(self, call: InferenceCall, tokens: int, now: float) -> None:
        """Measures what came."""
        if self.attempt_first_s is None:
            self.attempt_first_s = now - call.sent_at
        if not self.first_at:
            self.first_at = now
            self.first_s = now - call.sent_at
            self.meters.first_token.observe(now - call.arrived_at)
        elif tokens:
            self.meters.inter_token.observe((now - self.last_at) / tokens)
        self.last_at = now
        self.completion_tokens += tokens

    def send(self, call: InferenceCall, message: bytes) -> None:
        """Gives the client a message."""
        self.sent_bytes += len(message)
        self._sink(call, message)

    def _failed(self, call: InferenceCall, error: HeadraceError) -> HeadraceError:
        """Once there is output, no failure may ask a client to try the same again."""
        if not error.retryable and error.reason not in failures.ELSEWHERE:
            return error
        self.meters.failovers["interrupted"] += 1
        model = call.version.model
        return RunnerError(
            f"the answer of model '{model}' was interrupted, and nobody could go on with it: {error.message}",
            entry=catalogue.GENERATION_INTERRUPTED,
            context={"model": model, "cause": error.reason},
        )
