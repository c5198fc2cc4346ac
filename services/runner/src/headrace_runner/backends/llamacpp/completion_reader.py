"""Turns the events of one completion into what is new of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from headrace_runner.backends.generation import Finish, Generated, PromptDone, TokenLogprob

TokensOf = Callable[[str], Awaitable[Sequence[int]]]
_FINISHES = {"eos": Finish.STOP, "word": Finish.STOP, "limit": Finish.LENGTH}


class CompletionReader:
    """Reads one completion.

    A character of several tokens comes when its last token does, and only with that one: llama.cpp leaves the others
    out. They are found by taking the text apart again. That gives the same tokens, or rarely, where a grammar or chance
    chose others, fewer ones for the same text.

    Args:
        tokens_of: Takes text apart as the model does.
        top_logprobs: How many alternatives were asked for.
    """

    def __init__(self, *, tokens_of: TokensOf, top_logprobs: int | None) -> None:
        self._tokens_of = tokens_of
        self._top = top_logprobs or 0
        self._known = 0
        # Told without their text, which may become a stop text.
        self._held: list[int] = []

    async def read(self, event: Mapping[str, Any]) -> PromptDone | Generated:
        """What an event says."""
        progress = event.get("prompt_progress")
        if progress is not None:
            return PromptDone(computed_tokens=progress["processed"], cached_tokens=progress["cache"])
        last = bool(event.get("stop"))
        text, told = event.get("content", ""), list(event.get("tokens", ()))
        gap = max(0, event.get("tokens_predicted", self._known) - self._known - len(told))
        self._known += gap + len(told)
        tokens = await self._whole(text, told) if gap and text else told
        if text:
            self._held.clear()
        else:
            self._held += told
        return Generated(
            text=text,
            token_ids=tokens,
            untold_tokens=max(0, gap + len(told) - len(tokens)),
            logprobs=[self._logprob(entry) for entry in event.get("completion_probabilities", ())],
            finish=_FINISHES.get(event.get("stop_type", ""), Finish.STOP) if last else None,
        )

    async def _whole(self, text: str, told: list[int]) -> list[int]:
        """The tokens of `text`, whose last are `told`, without those that were told while it was held back."""
        tokens, held = list(await self._tokens_of(text)), len(self._held)
        if tokens[:held] != self._held or len(tokens) - held < len(told):
            return told
        return tokens[held:]

    def _logprob(self, entry: Mapping[str, Any]) -> TokenLogprob:
        top = [_logprob(other) for other in entry.get("top_logprobs", ())[: self._top]]
        return _logprob(entry, top)


def _logprob(entry: Mapping[str, Any], top: Sequence[TokenLogprob] = ()) -> TokenLogprob:
    return TokenLogprob(entry["id"], bytes(entry.get("bytes") or ()), min(0.0, entry.get("logprob") or 0.0), top)
