"""What a language model makes of a prompt, as it comes: for asyncio."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

from headrace_client.contracts.headrace.gateway.v1 import generation_pb2
from headrace_client.inference import Execution, execution_of, seconds_of
from headrace_client.tried_stream import TriedStream

_FINISH: Mapping[int, str] = {generation_pb2.FINISH_REASON_STOP: "stop", generation_pb2.FINISH_REASON_LENGTH: "length"}


class TokenLogprob(NamedTuple):
    """How likely a token was.

    Attributes:
        token_id: The token.
        token: Its bytes, which need not be whole characters.
        logprob: Natural logarithm of its probability before sampling; at most 0.
        top: The likeliest tokens at its place, likeliest first.
    """

    token_id: int
    token: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class PromptProgress(NamedTuple):
    """How many tokens the prompt has, and how many of them have been computed, reused ones included."""

    prompt_tokens: int
    computed_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What is new.

    Attributes:
        index: Which of the completions it belongs to.
        text: Whole characters. What may become a stop text is held back, and its tokens with it.
        token_ids: What the text is made of; the model's own end of text has none.
        untold_tokens: How many tokens came besides, of which nobody knows which they are; seldom any.
        logprobs: Of the tokens, where the call asks for them; of a character made of several, only of the last one.
        finish_reason: `stop` or `length` in the last delta of a completion.
        progress: Set in deltas that tell of the prompt only, before the first token.
    """

    index: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    untold_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    progress: PromptProgress | None = None


@dataclass(slots=True, kw_only=True)
class Completion:
    """What is there of one completion.

    Attributes:
        index: Its number, from 0.
        token_ids: Its tokens.
        untold_tokens: How many more there are of which nobody knows which they are.
        logprobs: Of the tokens, as in `Delta`.
        finish_reason: `stop`: the model ended it, or a stop text occurred; `length`: it has `max_tokens`, or the
            context is full; None: it goes on, or was broken off.
    """

    index: int
    token_ids: list[int] = field(default_factory=list[int])
    untold_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finish_reason: str | None = None
    _texts: list[str] = field(default_factory=list[str])

    @property
    def text(self) -> str:
        """Its text."""
        return "".join(self._texts)

    def add(self, delta: Delta) -> None:
        """Takes in what is new of it."""
        if delta.text:
            self._texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.untold_tokens += delta.untold_tokens
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = delta.finish_reason or self.finish_reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a call.

    Attributes:
        prompt_tokens: Of the prompt, counted once however many completions it has.
        cached_prompt_tokens: Those of them that an earlier call had computed.
        completion_tokens: Of all completions.
    """

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of a call went on the runner, in seconds.

    Attributes:
        queue_s: Until it had its slots.
        time_to_first_token_s: From its arrival there to its first token.
        generation_s: From the first token to the last.
    """

    queue_s: float
    time_to_first_token_s: float
    generation_s: float


class Transcript:
    """What has come of a call so far.

    Attributes:
        model: Name of the model that answers; empty before the first message, as is `version`.
        version: Number of its version.
        usage: Tokens; None until the end.
        timings: Where the time went; None until the end.
        execution: Where it ran; None until the end.
    """

    def __init__(self) -> None:
        self.model = ""
        self.version = ""
        self._completions: dict[int, Completion] = {}
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.execution: Execution | None = None

    @property
    def completions(self) -> list[Completion]:
        """Those of which something has come, by their numbers."""
        return [self._completions[index] for index in sorted(self._completions)]

    @property
    def text(self) -> str:
        """The first completion's text."""
        return self._completions[0].text if 0 in self._completions else ""

    @property
    def finish_reason(self) -> str | None:
        """The first completion's."""
        return self._completions[0].finish_reason if 0 in self._completions else None

    @property
    def finish_reasons(self) -> list[str | None]:
        """Those of all completions."""
        return [completion.finish_reason for completion in self.completions]

    def add(self, message: generation_pb2.GenerateResponse) -> list[Delta]:
        """Takes in a message; gives what is new in it."""
        self.model = message.model_name or self.model
        self.version = message.model_version or self.version
        deltas = [_delta(delta) for delta in message.deltas]
        for delta in deltas:
            self._completions.setdefault(delta.index, Completion(index=delta.index)).add(delta)
        if message.HasField("progress"):
            told = message.progress
            deltas.insert(0, Delta(progress=PromptProgress(told.prompt_tokens, told.computed_tokens)))
        if message.HasField("usage"):
            usage = message.usage
            self.usage = Usage(
                prompt_tokens=usage.prompt_tokens,
                cached_prompt_tokens=usage.cached_prompt_tokens,
                completion_tokens=usage.completion_tokens,
            )
        if message.HasField("timings"):
            timings = message.timings
            self.timings = Timings(
                queue_s=seconds_of(timings.queue_time),
                time_to_first_token_s=seconds_of(timings.time_to_first_token),
                generation_s=seconds_of(timings.generation_time),
            )
        if message.HasField("execution"):
            self.execution = execution_of(message.execution)
        return deltas


class Generation(Transcript):
    """A call that generates; made by `AsyncClient.generate`.

    Iterating gives each `Delta` as it comes; all of them together are in the attributes. The call begins, and its time
    runs, with the first step. Leaving the loop early ends the call, also where it runs, and so do `aclose()`, the end
    of an `async with` block and cancelling the task. One task at a time iterates.

        async with client.generate("smollm2", "Once upon a time", max_tokens=64) as generation:
            async for delta in generation:
                print(delta.text, end="", flush=True)
        print(generation.usage)

    Raises:
        CallCancelled: When iterated: it was closed before its end.
        HeadraceError: When iterated: the failure, typed. What came before it stays in the attributes.
    """

    def __init__(self, stream: TriedStream[generation_pb2.GenerateResponse]) -> None:
        super().__init__()
        self._stream = stream
        self._due: deque[Delta] = deque()

    async def __anext__(self) -> Delta:
        while not self._due:
            message = await self._stream.read()
            if message is None:
                raise StopAsyncIteration
            self._due.extend(self.add(message))
        return self._due.popleft()

    async def __aiter__(self) -> AsyncGenerator[Delta, None]:
        try:
            while True:
                try:
                    delta = await anext(self)
                except StopAsyncIteration:
                    return
                yield delta
        finally:
            self._stream.cancel()

    async def read(self) -> str:
        """Waits for the end; gives the first completion's whole text."""
        async for _ in self:
            pass
        return self.text

    async def aclose(self) -> None:
        """Ends the call, also where it runs; does nothing when it is over."""
        self._stream.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _delta(message: generation_pb2.CompletionDelta) -> Delta:
    reason = message.finish_reason
    return Delta(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        untold_tokens=message.untold_tokens,
        logprobs=tuple(map(_logprob, message.logprobs)),
        # A number is of a mesh that is newer than this package.
        finish_reason=_FINISH.get(reason, str(reason)) if reason else None,
    )


def _logprob(message: generation_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(message.token_id, message.token, message.logprob, tuple(map(_logprob, message.top)))
