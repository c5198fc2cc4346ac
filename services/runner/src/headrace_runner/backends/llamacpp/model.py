"""A model that generates, in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any

import structlog

from headrace_common import catalogue
from headrace_common.errors import HeadraceError, InferenceTimeout, ModelError, RunnerUnavailable
from headrace_runner.backends.generation import Finish, Generated, Prompt, PromptDone, Sampling
from headrace_runner.backends.llamacpp.client import ModelClient, Refused
from headrace_runner.backends.llamacpp.completion_body import completion_body
from headrace_runner.backends.llamacpp.completion_reader import CompletionReader
from headrace_runner.backends.llamacpp.constraint import (
    Constraint,
    Constraints,
    OutputCheck,
    invalid,
)
from headrace_runner.backends.llamacpp.lost import process_lost
from headrace_runner.backends.llamacpp.process import ModelProcess
from headrace_runner.backends.llamacpp.prompt import Tokenizer

_CONTEXT_EXCEEDED = "exceed_context_size_error"
_BAD_REQUEST = 400
_POLL_S = 0.002
_POLL_MAX_S = 0.05


class LlamaCppModel:
    """Implements `GenerativeModel`.

    Args:
        process: Runs the model already; closed with this.
        slots: Sequences that the process computes at the same time.
        context_length: Tokens of one of them.
        vocabulary_size: Tokens are below it.
        has_template: Whether the model has a chat template.
    """

    def __init__(
        self, *, process: ModelProcess, slots: int, context_length: int, vocabulary_size: int, has_template: bool
    ) -> None:
        self.slots = slots
        self.context_length = context_length
        self.process = process
        self._client = ModelClient(process=process)
        self._tokenizer = Tokenizer(
            client=self._client,
            context_length=context_length,
            vocabulary_size=vocabulary_size,
            has_template=has_template,
        )
        self._constraints = Constraints()
        self._running = 0
        self._log = structlog.stdlib.get_logger("llamacpp")

    @property
    def memory_bytes(self) -> int:
        return self.process.memory_bytes

    @property
    def failure(self) -> HeadraceError | None:
        return self.process.failure

    @property
    def process_id(self) -> int:
        return self.process.pid

    async def tokens_of(self, prompt: Prompt) -> list[int]:
        try:
            return await self._tokenizer.tokens_of(prompt)
        except Refused as refused:
            raise self._failed(refused) from None

    async def check(self, sampling: Sampling) -> None:
        self._tokenizer.check_bias(sampling.logit_bias)
        await self._constraints.of(sampling)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[PromptDone | Generated, None]:
        constraint = await self._constraints.of(sampling)
        check = constraint and OutputCheck(constraint)
        body = completion_body(prompt, sampling, context_length=self.context_length)
        if constraint is not None:
            body |= constraint.body
        reader = CompletionReader(tokens_of=self._tokenizer.text, top_logprobs=sampling.top_logprobs)
        begun = finished = False
        self._running += 1
        try:
            async with self._client.stream("/completion", body) as events, aclosing(events):
                begun = True
                async for event in events:
                    part = await reader.read(event)
                    if check is not None and isinstance(part, Generated):
                        ended = part.finish is Finish.STOP and not sampling.stop
                        check.follow(part.text, ended=ended)
                    finished = isinstance(part, Generated) and part.finish is not None
                    yield part
                    if finished:
                        return
            raise process_lost()
        except Refused as refused:
            # One that comes later may be another request's: of text into tokens.
            finished = not begun
            raise self._refusal(refused, prompt, constraint if not begun else None) from None
        finally:
            self._running -= 1
            if not finished:
                await _to_its_end(self._slot_free())

    def close(self) -> None:
        self.process.close()

    async def _slot_free(self) -> None:
        """Waits until no more slots are busy than there are completions. The connection is closed already.

        However long that takes: a slot that is still busy has no room for another completion, and a process that hangs
        is ended.
        """
        pause_s = _POLL_S
        # With its process the slot is gone too.
        with suppress(RunnerUnavailable):
            while await self._busy_slots() > self._running:
                await asyncio.sleep(pause_s)
                pause_s = min(1.5 * pause_s, _POLL_MAX_S)

    async def _busy_slots(self) -> int:
        try:
            return sum(bool(slot["is_processing"]) for slot in await self._client.ask("GET", "/slots"))
        except (InferenceTimeout, Refused):
            # Nobody knows: more than there can be completions.
            return self.slots + 1

    def _refusal(self, refused: Refused, prompt: Sequence[int], constraint: Constraint | None) -> HeadraceError:
        if refused.kind == _CONTEXT_EXCEEDED:
            return self._too_long(len(prompt))
        if constraint is not None and refused.status == _BAD_REQUEST:
            return invalid(constraint.field, "llama.cpp can't use it")
        return self._failed(refused)

    def _failed(self, refused: Refused) -> ModelError:
        self._log.warning("llama.cpp refused a request", status=refused.status, kind=refused.kind)
        return ModelError("the model failed while it computed this request", entry=catalogue.MODEL_EXECUTION_FAILED)

    def _too_long(self, tokens: int) -> ModelError:
        return ModelError(
            f"the prompt has {tokens} tokens, the model's context has room for {self.context_length - 1} and an answer",
            entry=catalogue.CONTEXT_LENGTH_EXCEEDED,
            context={"actual": tokens, "limit": self.context_length},
        )


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Waits for the work also where it is cancelled meanwhile; the cancel takes effect afterwards."""
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
