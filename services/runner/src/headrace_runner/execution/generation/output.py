"""What has come of a call's completions, and what of that is to be sent next. Pure: the caller tells the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from headrace_runner.backends.generation import Finish, Generated, PromptDone, TokenLogprob

# A token with its bytes and its probability, more than most take.
_LOGPROB_BYTES = 48


class Delta(NamedTuple):
    """What is new of a completion, by its number; `untold_tokens` came besides those that are named."""

    completion: int
    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprob]
    finish: Finish | None
    untold_tokens: int = 0


class Usage(NamedTuple):
    """Tokens of a call."""

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int


class _Completion:
    """One completion, and what of it has not been sent."""

    __slots__ = (
        "_told_logprobs",
        "_told_tokens",
        "at_s",
        "finish",
        "logprobs",
        "sent",
        "texts",
        "token_ids",
        "untold_tokens",
    )

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.untold_tokens = 0
        # How many of the tokens have their text here; that of the others is held back.
        self._told_tokens = 0
        self._told_logprobs = 0
        self.finish: Finish | None = None
        self.sent = False
        self.at_s = 0.0

    @property
    def due(self) -> bool:
        return not self.sent and (self.finish is not None or bool(self.texts))

    def add(self, generated: Generated) -> None:
        self.token_ids += generated.token_ids
        self.logprobs += generated.logprobs
        self.untold_tokens += generated.untold_tokens
        if generated.text:
            self.texts.append(generated.text)
            self._told_tokens, self._told_logprobs = len(self.token_ids), len(self.logprobs)

    def drain(self, index: int) -> Delta:
        tokens, logprobs = self._told_tokens, self._told_logprobs
        if self.finish is not None:
            tokens, logprobs = len(self.token_ids), len(self.logprobs)
        text, untold_tokens = "".join(self.texts), self.untold_tokens
        delta = Delta(index, text, self.token_ids[:tokens], self.logprobs[:logprobs], self.finish, untold_tokens)
        self.untold_tokens = 0
        self.texts, self.token_ids, self.logprobs = [], self.token_ids[tokens:], self.logprobs[logprobs:]
        self._told_tokens = self._told_logprobs = 0
        self.sent = self.finish is not None
        return delta


class Output:
    """Gathers what the model gives for one call.

    A token is sent together with the text that it belongs to. So a caller that goes on elsewhere with the tokens that
    it has goes on with exactly the text that it has, though text that may begin a stop text, or ends within a
    character, is held back.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        first_token_s: When the first token came; 0 before.
        last_token_s: When the last one came.
        unsent_bytes: About what a message with everything unsent would have.
    """

    def __init__(self, *, completions: int, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.first_token_s = 0.0
        self.last_token_s = 0.0
        self.unsent_bytes = 0
        self._completions = [_Completion() for _ in range(completions)]
        self._unfinished = completions
        self._tokens = 0
        self._cached_tokens = 0
        self._computed_tokens = 0
        self._computed_news = False

    @property
    def finished(self) -> bool:
        """Whether every completion has come to its end."""
        return not self._unfinished

    @property
    def due(self) -> bool:
        """Whether there is something to send."""
        return self._computed_news or any(completion.due for completion in self._completions)

    @property
    def usage(self) -> Usage:
        """Tokens so far; the prompt counts once, however many completions it has."""
        return Usage(self.prompt_tokens, min(self._cached_tokens, self.prompt_tokens), self._tokens)

    def computed(self, done: PromptDone) -> None:
        """So much of the prompt has been computed."""
        self._cached_tokens = max(self._cached_tokens, done.cached_tokens)
        computed_tokens = min(done.computed_tokens, self.prompt_tokens)
        if computed_tokens > self._computed_tokens and not self._tokens:
            self._computed_tokens = computed_tokens
            self._computed_news = True

    def take(self, index: int, generated: Generated, now: float) -> float | None:
        """Something new of a completion.

        Returns:
            Seconds since its tokens before, for each of its tokens; None where there is none of either.
        """
        completion = self._completions[index]
        gap_s: float | None = None
        self._tokens += generated.untold_tokens
        if generated.token_ids:
            self._tokens += len(generated.token_ids)
            self._computed_news = False
            self.first_token_s = self.first_token_s or now
            self.last_token_s = now
            gap_s = (now - completion.at_s) / len(generated.token_ids) if completion.at_s else None
            completion.at_s = now
        completion.add(generated)
        self.unsent_bytes += _bytes_of(generated)
        if generated.finish is not None and completion.finish is None:
            completion.finish = generated.finish
            self._unfinished -= 1
        return gap_s

    def finish_all(self) -> None:
        """Nothing is left to generate."""
        for completion in self._completions:
            completion.finish = completion.finish or Finish.LENGTH
        self._unfinished = 0

    def drain(self) -> list[Delta]:
        """Takes what is to be sent of the completions."""
        self.unsent_bytes = 0
        return [completion.drain(index) for index, completion in enumerate(self._completions) if completion.due]

    def drain_progress(self) -> int | None:
        """Takes how much of the prompt has been computed, if that is news; never after the first token."""
        if not self._computed_news:
            return None
        self._computed_news = False
        return self._computed_tokens


def _bytes_of(generated: Generated) -> int:
    logprobs = sum(1 + len(logprob.top) for logprob in generated.logprobs)
    return 4 * len(generated.text) + 5 * len(generated.token_ids) + _LOGPROB_BYTES * logprobs
