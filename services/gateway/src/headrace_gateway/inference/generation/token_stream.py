"""What a client has of a generation, and how another runner goes on after it."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from headrace.gateway.v1.execution_pb2 import Execution
from headrace.gateway.v1.generation_pb2 import GenerateResponse
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import wire
from headrace_common.lanes import LaneViolation
from headrace_gateway.inference.execution import write_execution
from headrace_gateway.inference.generation.answer_parts import AnswerParts, Sink
from headrace_gateway.inference.generation.generation_meters import GenerationMeters

if TYPE_CHECKING:
    from headrace_gateway.inference.call import InferenceCall
    from headrace_gateway.mesh.session_calls import Answer

_REQUEST = mesh_pb2.GenerateCall.REQUEST_FIELD_NUMBER
_EXECUTION = GenerateResponse.EXECUTION_FIELD_NUMBER


class TokenStream(AnswerParts):
    """Passes GenerateResponses on as they came, and remembers the tokens where another runner may go on after them.

    Runners send a token together with its text, so what a client has is a whole beginning, and the seam can't be seen.
    After anything else nobody can go on: a token without text, which may be held back, text of tokens that weren't
    told, and the end of a completion. Pure: told the time.

    Args:
        request: A serialised GenerateRequest.
        can_continue: Whether another runner may go on.
        model_name: Told with the first message, as is `model_version`.
    """

    def __init__(
        self,
        *,
        request: bytes,
        can_continue: bool,
        model_name: str,
        model_version: str,
        meters: GenerationMeters,
        sink: Sink,
    ) -> None:
        super().__init__(request=wire.encode_len_field(_REQUEST, request), meters=meters, sink=sink)
        self._can_continue = can_continue
        self._named = GenerateResponse(model_name=model_name, model_version=model_version).SerializeToString()
        self._told = False
        self._emitted = array("I")
        # How many of them earlier attempts made than the one under way.
        self._emitted_before = 0
        self._whole = True
        # Whether an attempt to go on has yet to bring something.
        self._resumed = False

    def add(self, call: InferenceCall, payload: bytes, now: float) -> None:
        """A part came.

        Raises:
            LaneViolation: It is none.
        """
        try:
            message = GenerateResponse.FromString(payload)
        except DecodeError:
            raise LaneViolation("a part of a generation is malformed") from None
        if message.deltas:
            self._count_tokens(call, message, now)
            if self._can_continue:
                self._keep(message)
            self.begun = True
        elif self.begun or (self._told and not message.HasField("progress")):
            return
        self.send(call, self._shown(payload, message))

    def last(self, call: InferenceCall, answer: Answer, now: float) -> Answer:
        """The answer with the client's last message in place of the runner's last part.

        Raises:
            DecodeError, ValueError: The runner's is none, or has numbers that can't be.
        """
        message = GenerateResponse.FromString(answer.payload)
        if message.deltas:
            self._count_tokens(call, message, now)
        self._continued()
        payload = self._across(message) if self._emitted_before else answer.payload
        usage, tokens = message.usage, self.meters.tokens
        self.used(usage.prompt_tokens, usage.completion_tokens)
        tokens["prompt"] += usage.prompt_tokens
        tokens["cached_prompt"] += usage.cached_prompt_tokens
        execution = Execution()
        write_execution(execution, call, answer)
        shown = self._shown(payload, message)
        return answer._replace(payload=shown + wire.encode_len_field(_EXECUTION, execution.SerializeToString()))

    @property
    def may_go_on(self) -> bool:
        """Whether another attempt can go on after what the client has."""
        return (self._can_continue and self._whole) or not self.begun

    def next_request(self) -> bytes:
        """What another attempt is sent. To be called once for each, while one `may_go_on`."""
        request = super().next_request()
        if not self.begun:
            return request
        self._resumed = True
        self._emitted_before = len(self._emitted)
        return request + mesh_pb2.GenerateCall(emitted=self._emitted).SerializeToString()

    def _count_tokens(self, call: InferenceCall, message: GenerateResponse, now: float) -> None:
        tokens = sum(len(delta.token_ids) + delta.untold_tokens for delta in message.deltas)
        self.count(call, tokens, now)
        self._continued()
        self.meters.tokens["completion"] += tokens

    def _continued(self) -> None:
        """Another runner goes on, as is known once something came of it."""
        if self._resumed:
            self._resumed = False
            self.meters.failovers["continued"] += 1

    def _keep(self, message: GenerateResponse) -> None:
        for delta in message.deltas:
            self._emitted.extend(delta.token_ids)
            self._whole = bool(delta.text) and not delta.finish_reason
            if delta.untold_tokens or (delta.text and not delta.token_ids):
                # What they say would be said again.
                self._can_continue = False

    def _shown(self, payload: bytes, message: GenerateResponse) -> bytes:
        """The client's message: the model's name is in the first, and progress in none after a token."""
        if not self._told:
            self._told = True
            return payload if message.model_name else payload + self._named
        if not message.model_name and not (self.begun and message.HasField("progress")):
            return payload
        message.ClearField("model_name")
        message.ClearField("model_version")
        if self.begun:
            message.ClearField("progress")
        return message.SerializeToString()

    def _across(self, message: GenerateResponse) -> bytes:
        """The last message of a call that several runners answered, counted over all of them."""
        message.usage.completion_tokens += self._emitted_before
        message.timings.time_to_first_token.FromNanoseconds(int(self.first_s * 1e9))
        message.timings.generation_time.FromNanoseconds(int((self.last_at - self.first_at) * 1e9))
        return message.SerializeToString()
