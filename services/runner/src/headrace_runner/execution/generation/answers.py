"""Writes what was generated as messages of the protocol that the call came by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from headrace.gateway.v1 import generation_pb2 as pb
from headrace_common import wire
from headrace_runner.backends.generation import Finish, TokenLogprob
from headrace_runner.execution.generation.output import Delta, Usage
from headrace_runner.execution.generation.request import GenerationRequest
from headrace_runner.execution.generation.triton_request import TEXT_OUTPUT
from headrace_runner.tensors.infer_response import ResponseWriter

_FINISH = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
}


class Timings(NamedTuple):
    """Where the time of a call went, in seconds."""

    queue_s: float
    first_token_s: float
    generation_s: float


class AnswerWriter(Protocol):
    """Writes the messages of one answer."""

    def part(self, deltas: Sequence[Delta], progress: pb.PromptProgress | None) -> bytes | None:
        """A message that is not the last one; None where there is nothing that the protocol can say."""
        ...

    def end(self, deltas: Sequence[Delta], usage: Usage, timings: Timings) -> bytes:
        """The last message."""
        ...


class GenerateWriter:
    """Writes `GenerateResponse`s."""

    def __init__(self, *, request: GenerationRequest, model_name: str, model_version: str) -> None:
        self._id = request.id
        self._names: tuple[str, str] | None = (model_name, model_version)

    def part(self, deltas: Sequence[Delta], progress: pb.PromptProgress | None) -> bytes | None:
        """A message with what is new."""
        if not deltas and progress is None:
            return None
        message = self._message(deltas)
        if progress is not None:
            message.progress.CopyFrom(progress)
        return message.SerializeToString()

    def end(self, deltas: Sequence[Delta], usage: Usage, timings: Timings) -> bytes:
        """The message with usage and timings."""
        message = self._message(deltas)
        message.usage.prompt_tokens, message.usage.cached_prompt_tokens, message.usage.completion_tokens = usage
        message.timings.queue_time.FromNanoseconds(int(timings.queue_s * 1e9))
        message.timings.time_to_first_token.FromNanoseconds(int(timings.first_token_s * 1e9))
        message.timings.generation_time.FromNanoseconds(int(timings.generation_s * 1e9))
        return message.SerializeToString()

    def _message(self, deltas: Sequence[Delta]) -> pb.GenerateResponse:
        message = pb.GenerateResponse(id=self._id)
        if self._names is not None:
            message.model_name, message.model_version = self._names
            self._names = None
        for delta in deltas:
            written = message.deltas.add(
                index=delta.completion,
                text=delta.text,
                token_ids=delta.token_ids,
                finish_reason=_FINISH[delta.finish],
                untold_tokens=delta.untold_tokens,
            )
            written.logprobs.extend(map(_logprob, delta.logprobs))
        return message


class TritonWriter:
    """Writes `ModelInferResponse`s: one text for each completion, empty where nothing is new."""

    def __init__(self, *, request: GenerationRequest, tensors: ResponseWriter) -> None:
        self._request = request
        self._tensors = tensors
        self._finishes: list[str] = [""] * request.completions

    def part(self, deltas: Sequence[Delta], progress: pb.PromptProgress | None) -> bytes | None:
        """A response with what is new; progress has no place in one."""
        return self._response(deltas, _parameter("triton_final_response", final=False)) if deltas else None

    def end(self, deltas: Sequence[Delta], usage: Usage, timings: Timings) -> bytes:
        """The final response."""
        parameters = (
            _parameter("triton_final_response", final=True),
            _count("prompt_tokens", usage.prompt_tokens),
            _count("completion_tokens", usage.completion_tokens),
        )
        response = self._response(deltas, b"".join(parameters))
        return response + _text("finish_reason", ",".join(self._finishes))

    def _response(self, deltas: Sequence[Delta], parameters: bytes) -> bytes:
        texts = np.full(self._request.completions, self._request.echo.encode(), dtype=object)
        for delta in deltas:
            texts[delta.completion] = texts[delta.completion] + delta.text.encode()
            if delta.finish is not None:
                self._finishes[delta.completion] = delta.finish.value
        written = self._tensors.write(self._request.id, [(TEXT_OUTPUT, "BYTES", texts)], self._request.form)
        return bytes(written) + parameters


def _logprob(logprob: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=logprob.token_id,
        token=logprob.token,
        logprob=logprob.logprob,
        top=[pb.TokenLogprob(token_id=top.token_id, token=top.token, logprob=top.logprob) for top in logprob.top],
    )


def _parameter(name: str, *, final: bool) -> bytes:
    return _entry(name, wire.encode_varint_field(1, final))


def _count(name: str, value: int) -> bytes:
    return _entry(name, wire.encode_varint_field(2, value))


def _text(name: str, value: str) -> bytes:
    return _entry(name, wire.encode_len_field(3, value.encode()))


def _entry(name: str, value: bytes) -> bytes:
    """One entry of the response's parameter map."""
    return wire.encode_len_field(4, wire.encode_len_field(1, name.encode()) + wire.encode_len_field(2, value))
