"""What llama.cpp is asked for one completion. Nothing of a request gets there but the values named here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace_runner.backends.generation import SEEDS, Sampling

REPETITION_WINDOW = 64
"""Tokens back to which penalties look."""

# llama.cpp's own order, without what is never used.
_SAMPLERS = ["penalties", "top_k", "top_p", "min_p", "temperature"]
# The last event would repeat the prompt otherwise.
_LAST_FIELDS = ["content", "tokens", "stop", "stop_type", "tokens_predicted", "completion_probabilities"]


def completion_body(prompt: Sequence[int], sampling: Sampling, *, context_length: int) -> dict[str, Any]:
    """The request for `/completion`. Everything is stated: llama.cpp's defaults are not those of the contract.

    The prompt's tokens are of the vocabulary, and fewer than the context has. What the output must fit is not in it.
    """
    return {
        "prompt": list(prompt),
        "stream": True,
        "return_tokens": True,
        # One event for each batch of the prompt. Only when it writes one llama.cpp sees that nobody listens.
        "return_progress": True,
        "response_fields": _LAST_FIELDS,
        "cache_prompt": True,
        # llama.cpp takes 0 and less for other things.
        "n_predict": max(1, min(sampling.max_tokens, context_length - len(prompt))),
        "samplers": _SAMPLERS,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_last_n": REPETITION_WINDOW,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        # An empty one would end it at once.
        "stop": [stop for stop in sampling.stop if stop],
        # The last number means a random one, which is not told.
        "seed": sampling.seed % SEEDS,
        "ignore_eos": sampling.ignore_end,
        "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()],
        # 0 would report none; the alternatives are left out again where nobody asked for them.
        "n_probs": 0 if sampling.top_logprobs is None else max(1, sampling.top_logprobs),
    }
