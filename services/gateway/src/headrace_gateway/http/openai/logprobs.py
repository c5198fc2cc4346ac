"""Log-probabilities as OpenAI's two generations of answers have them."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable
from typing import Any

from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import TokenLogprob

_Decoder = getincrementaldecoder("utf-8")


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """The `content` of a chat's `logprobs`."""
    return [{**_described(token), "top_logprobs": [_described(top) for top in token.top]} for token in tokens]


def _described(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token_text(token), "logprob": token.logprob, "bytes": list(token.token)}


def token_text(token: TokenLogprob) -> str:
    """The token's text; parts of characters are shown as replacement characters."""
    return token.token.decode(errors="replace")


class CompletionLogprobs:
    """The `logprobs` of one completion, whose places in the text are counted from its beginning."""

    def __init__(self) -> None:
        self._characters = 0
        self._decoder = _Decoder(errors="replace")

    def add(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
        """Those of the next tokens."""
        texts: list[str] = []
        offsets: list[int] = []
        logprobs: list[float] = []
        tops: list[dict[str, float]] = []
        for token in tokens:
            offsets.append(self._characters)
            self._characters += len(self._decoder.decode(token.token))
            texts.append(token_text(token))
            logprobs.append(token.logprob)
            # Several tokens may show as the same text; the likeliest comes first.
            top: dict[str, float] = {}
            for other in token.top:
                top.setdefault(token_text(other), other.logprob)
            tops.append(top)
        return {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}
