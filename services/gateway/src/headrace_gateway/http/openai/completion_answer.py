"""The answer to a request for completions, of one or several prompts: whole, or in chunks as it comes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import CompletionDelta, GenerateResponse
from headrace_gateway.http.openai.answer_head import AnswerHead, Gathered, UsageSum, finish_of
from headrace_gateway.http.openai.logprobs import CompletionLogprobs

_KIND = "text_completion"


class CompletionChunks:
    """Makes chunks of the mesh's messages.

    Args:
        completions_each: Completions of each prompt.
        echoes: What the completions of each prompt begin with.
        logprobs: Whether the request asks for them.
        includes_usage: Whether a last chunk tells the usage, and all others that they don't.
    """

    def __init__(
        self,
        head: AnswerHead,
        *,
        completions_each: int,
        echoes: Sequence[str],
        logprobs: bool,
        includes_usage: bool,
    ) -> None:
        self._head = head
        self._each = completions_each
        self._echoes = echoes
        self._logprobs = logprobs
        self._includes_usage = includes_usage
        self._usage = UsageSum()
        self._begun: dict[int, CompletionLogprobs] = {}

    def add(self, prompt: int, message: GenerateResponse) -> Iterator[dict[str, Any]]:
        """The chunks of the next message for the prompt of that number."""
        self._head.heard(message)
        for delta in message.deltas:
            yield from self._of(prompt, delta)
        if message.HasField("usage"):
            self._usage.add(message.usage)

    def end(self) -> Iterator[dict[str, Any]]:
        """The chunks after the last message."""
        if self._includes_usage:
            yield {**self._head.document(_KIND, []), "usage": self._usage.document()}

    def _of(self, prompt: int, delta: CompletionDelta) -> Iterator[dict[str, Any]]:
        index = prompt * self._each + delta.index
        text, reason = delta.text, finish_of(delta)
        if index not in self._begun:
            self._begun[index] = CompletionLogprobs()
            text = self._echoes[prompt] + text
        if not (text or reason or delta.logprobs):
            return
        logprobs = self._begun[index].add(delta.logprobs) if self._logprobs else None
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        chunk = self._head.document(_KIND, [choice])
        yield {**chunk, "usage": None} if self._includes_usage else chunk


class CompletionAnswer:
    """Gathers the mesh's messages into one answer. Arguments as of `CompletionChunks`."""

    def __init__(self, head: AnswerHead, *, completions_each: int, echoes: Sequence[str], logprobs: bool) -> None:
        self._head = head
        self._each = completions_each
        self._echoes = echoes
        self._logprobs = logprobs
        self._usage = UsageSum()
        self._said: dict[int, Gathered] = {}

    def add(self, prompt: int, message: GenerateResponse) -> None:
        """Takes in the next message for the prompt of that number."""
        self._head.heard(message)
        for delta in message.deltas:
            index = prompt * self._each + delta.index
            self._said.setdefault(index, Gathered([self._echoes[prompt]])).add(delta)
        if message.HasField("usage"):
            self._usage.add(message.usage)

    def document(self) -> dict[str, Any]:
        """The answer, after the last messages."""
        choices = [
            {
                "index": index,
                "text": said.text,
                "logprobs": CompletionLogprobs().add(said.logprobs) if self._logprobs else None,
                "finish_reason": said.finish_reason or "stop",
            }
            for index, said in sorted(self._said.items())
        ]
        return {**self._head.document(_KIND, choices), "usage": self._usage.document()}
