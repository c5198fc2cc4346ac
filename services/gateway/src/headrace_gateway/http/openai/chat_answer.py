"""A chat's answer: whole, or in chunks as it comes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import CompletionDelta, GenerateResponse
from headrace_gateway.http.openai.answer_head import AnswerHead, Gathered, UsageSum, finish_of
from headrace_gateway.http.openai.logprobs import chat_logprobs


class ChatChunks:
    """Makes chunks of the mesh's messages.

    Args:
        logprobs: Whether the request asks for them.
        includes_usage: Whether a last chunk tells the usage, and all others that they don't.
    """

    def __init__(self, head: AnswerHead, *, logprobs: bool, includes_usage: bool) -> None:
        self._head = head
        self._logprobs = logprobs
        self._includes_usage = includes_usage
        self._usage = UsageSum()
        self._begun: set[int] = set()

    def add(self, message: GenerateResponse) -> Iterator[dict[str, Any]]:
        """The chunks of the next message."""
        self._head.heard(message)
        for delta in message.deltas:
            yield from self._of(delta)
        if message.HasField("usage"):
            self._usage.add(message.usage)

    def end(self) -> Iterator[dict[str, Any]]:
        """The chunks after the last message."""
        if self._includes_usage:
            yield {**self._head.document("chat.completion.chunk", []), "usage": self._usage.document()}

    def _of(self, delta: CompletionDelta) -> Iterator[dict[str, Any]]:
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            yield self._chunk(delta.index, {"role": "assistant", "content": ""})
        if delta.text or delta.logprobs:
            logprobs = _logprobs(delta.logprobs) if self._logprobs else None
            yield self._chunk(delta.index, {"content": delta.text}, logprobs=logprobs)
        if reason := finish_of(delta):
            yield self._chunk(delta.index, {}, finish_reason=reason)

    def _chunk(self, index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        chunk = self._head.document("chat.completion.chunk", [choice])
        return {**chunk, "usage": None} if self._includes_usage else chunk


class ChatAnswer:
    """Gathers the mesh's messages into one answer.

    Args:
        logprobs: Whether the request asks for them.
    """

    def __init__(self, head: AnswerHead, *, logprobs: bool) -> None:
        self._head = head
        self._logprobs = logprobs
        self._usage = UsageSum()
        self._said: dict[int, Gathered] = {}

    def add(self, message: GenerateResponse) -> None:
        """Takes in the next message."""
        self._head.heard(message)
        for delta in message.deltas:
            self._said.setdefault(delta.index, Gathered()).add(delta)
        if message.HasField("usage"):
            self._usage.add(message.usage)

    def document(self) -> dict[str, Any]:
        """The answer, after the last message."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": said.text, "refusal": None},
                "logprobs": _logprobs(said.logprobs) if self._logprobs else None,
                "finish_reason": said.finish_reason or "stop",
            }
            for index, said in sorted(self._said.items())
        ]
        return {**self._head.document("chat.completion", choices), "usage": self._usage.document()}


def _logprobs(tokens: Any) -> dict[str, Any]:
    return {"content": chat_logprobs(tokens), "refusal": None}
