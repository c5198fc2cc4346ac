"""A language model in this process whose tokens are bytes and whose text follows from its prompt alone.

It computes in steps of the event loop and counts as a real one does; a test may hold it, or lose its process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, RunnerUnavailable, ValidationError
from headrace_runner.backends.contract import Availability
from headrace_runner.backends.generation import (
    Chat,
    Finish,
    Generated,
    Prompt,
    PromptDone,
    Sampling,
    TokenLogprob,
)

END = 0
"""The token that ends a text."""
UNKNOWN_GRAMMAR = "unknown"
"""The only one that is refused."""
_LETTERS = 26


def next_token(sequence: Sequence[int], seed: int) -> int:
    """A letter that depends on all that was before it."""
    return ord("a") + (sum((index + 1) * token for index, token in enumerate(sequence)) + 7 * seed) % _LETTERS


def text_after(prompt: str, tokens: int, *, seed: int = 0) -> str:
    """What the model says after a prompt."""
    sequence = list(prompt.encode())
    for _ in range(tokens):
        sequence.append(next_token(sequence, seed))
    return bytes(sequence[-tokens:]).decode() if tokens else ""


@dataclass
class ScriptedLanguageModel:
    """Implements `GenerativeModel`; at temperature 0 the seed means nothing. The text that it generates is ASCII.

    Attributes:
        batch: Tokens of a prompt that are computed in one step.
        running: Completions that are being made; `peak` is the most there have been at the same time.
        may_go: Cleared, everything stands still before its next step, or after `free_tokens` of a completion.
        may_stop: Cleared, no completion is over and gives its slot back.
        begun: Prompts of all completions, in order.
        closed: Whether the model was freed.
        split: Tokens whose text comes together, as those of a character do.
        known: Prompts that were computed before.
        lost: Set when the present process is.
        failure: Set when it is so for good.
    """

    slots: int = 4
    context_length: int = 512
    batch: int = 16
    memory_bytes: int = 1_000_000
    split: int = 1
    running: int = 0
    peak: int = 0
    closed: bool = False
    free_tokens: int = 0
    may_go: asyncio.Event = field(default_factory=asyncio.Event)
    may_stop: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    known: set[tuple[int, ...]] = field(default_factory=set[tuple[int, ...]])
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    failure: HeadraceError | None = None

    def __post_init__(self) -> None:
        self.may_go.set()
        self.may_stop.set()

    async def check(self, sampling: Sampling) -> None:
        if sampling.grammar == UNKNOWN_GRAMMAR:
            raise ValidationError("no grammar", entry=catalogue.CONSTRAINT_INVALID, field="sampling.grammar")

    async def tokens_of(self, prompt: Prompt) -> list[int]:
        await self._step()
        if isinstance(prompt, str):
            return list(prompt.encode())
        if isinstance(prompt, Chat):
            return list("".join(f"{role}:{content}\n" for role, content in prompt.messages).encode())
        return list(prompt)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[PromptDone | Generated, None]:
        assert 0 < len(prompt) < self.context_length
        assert len(prompt) + sampling.max_tokens <= self.context_length
        sequence = list(prompt)
        self.begun.append(tuple(prompt))
        self.running += 1
        self.peak = max(self.peak, self.running)
        assert self.running <= self.slots, "more completions than slots"
        try:
            cached = len(prompt) - 1 if tuple(prompt) in self.known else 0
            for computed in (*range(min(cached + self.batch, len(prompt)), len(prompt), self.batch), len(prompt)):
                await self._step()
                yield PromptDone(computed_tokens=computed, cached_tokens=cached)
            self.known.add(tuple(prompt))
            held = bytearray()
            held_ids: list[int] = []
            for made in range(1, sampling.max_tokens + 1):
                await self._step(made)
                token = next_token(sequence, sampling.seed if sampling.temperature else 0)
                sequence.append(token)
                held.append(token)
                held_ids.append(token)
                text = bytes(held).decode()
                stopped = next((stop for stop in sampling.stop if stop in text), None)
                last = stopped is not None or made == sampling.max_tokens
                whole = last or made % self.split == 0
                yield Generated(
                    text=(text if stopped is None else text[: text.index(stopped)]) if whole else "",
                    token_ids=[token],
                    logprobs=[TokenLogprob(token, bytes([token]), -0.5)] if sampling.top_logprobs is not None else (),
                    finish=None if not last else Finish.LENGTH if stopped is None else Finish.STOP,
                )
                if last:
                    return
                if whole:
                    held.clear()
        finally:
            while not self.may_stop.is_set():
                with suppress(asyncio.CancelledError):
                    await self.may_stop.wait()
            self.running -= 1

    def lose(self) -> None:
        """The model's process dies; it is back at once."""
        self.lost.set()
        self.lost = asyncio.Event()

    def stand_after(self, tokens: int) -> None:
        """Lets every completion make so many tokens and no more."""
        self.free_tokens = tokens
        self.may_go.clear()

    def close(self) -> None:
        self.closed = True

    async def _step(self, token: int = 1) -> None:
        lost = self.lost
        await asyncio.sleep(0)
        while token > self.free_tokens and not (self.may_go.is_set() or lost.is_set()):
            waits = [asyncio.ensure_future(event.wait()) for event in (self.may_go, lost)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        if lost.is_set():
            raise RunnerUnavailable("the process that computes the model ended", entry=catalogue.MODEL_PROCESS_LOST)


class ScriptedLanguageBackend:
    """Loads `ScriptedLanguageModel`s.

    Args:
        held: Whether models stand still when they are loaded.

    Attributes:
        models: What was loaded.
        progress: How far a load is.
    """

    def __init__(self, *, held: bool = False) -> None:
        self.models: list[ScriptedLanguageModel] = []
        self.progress = 0.0
        self._held = held

    def available(self) -> Availability:
        return Availability(("cpu",))

    def load_progress(self, artifact_dir: Path) -> float:
        return self.progress

    def load(
        self, artifact_dir: Path, files: Sequence[str], manifest: Manifest, device_type: str, threads: int
    ) -> ScriptedLanguageModel:
        model = ScriptedLanguageModel(
            slots=manifest.language.slots or 4, context_length=manifest.language.context_length or 512
        )
        if self._held:
            model.may_go.clear()
        self.models.append(model)
        return model
