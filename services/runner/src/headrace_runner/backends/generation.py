"""What a backend promises for a model that generates text, and what it is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

ROLES = ("system", "user", "assistant", "tool")
SEEDS = (1 << 32) - 1
"""Seeds are below it."""
SCHEMA_BYTES_MAX = 64 << 10
GRAMMAR_BYTES_MAX = 16 << 10
"""A larger one stops all sequences of llama.cpp for seconds."""


class ChatMessage(NamedTuple):
    """What one party said. The role is one of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation that the model's template writes out.

    Attributes:
        add_generation_prompt: Whether the template begins the assistant's next message.
    """

    messages: Sequence[ChatMessage]
    add_generation_prompt: bool = True


Prompt: TypeAlias = str | Sequence[int] | Chat
"""Text, tokens, or a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one completion is made. Every value is in the range that `SamplingParameters` of the contract states.

    Attributes:
        max_tokens: At least 1; prompt and output together fit into the context.
        top_k: 0 means all.
        seed: 0 and more, below `SEEDS`.
        json_schema: What the output must fit; empty means anything. At most one of this and `grammar` is set.
        top_logprobs: How many alternatives to report beside each token; None reports no log-probabilities.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: Sequence[str] = ()
    seed: int
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    ignore_end: bool = False
    json_schema: str = ""
    grammar: str = ""
    top_logprobs: int | None = None


class Finish(Enum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"


class TokenLogprob(NamedTuple):
    """How likely a token was; `top` are the likeliest ones at its place, likeliest first."""

    token_id: int
    token: bytes
    logprob: float
    top: Sequence[TokenLogprob] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDone:
    """So much of the prompt has been computed; `cached_tokens` of it were known from before."""

    computed_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What is new of a completion: whole characters, and every token that was chosen, those of held-back text too.

    Attributes:
        untold_tokens: Tokens that were chosen besides, whose identity the backend doesn't know. They count as output.
        logprobs: Of those of `token_ids` that the backend told one for, in their order.
        finish: Set in the last one.
    """

    text: str
    token_ids: Sequence[int]
    untold_tokens: int = 0
    logprobs: Sequence[TokenLogprob] = ()
    finish: Finish | None = None


@runtime_checkable
class GenerativeModel(Protocol):
    """A model in memory that generates. Event loop only.

    Attributes:
        slots: Completions that it computes at the same time. Never ask for more.
        context_length: Tokens of one sequence, prompt and output together.
    """

    slots: int
    context_length: int

    @property
    def memory_bytes(self) -> int:
        """Memory that the model takes now, its process included."""
        ...

    async def tokens_of(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt. Text of users never becomes control tokens.

        Raises:
            ModelError: CHAT_TEMPLATE_FAILED (INVALID_ARGUMENT).
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT), for example a token that is not in the vocabulary.
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE).
        """
        ...

    async def check(self, sampling: Sampling) -> None:
        """Refuses what `generate` could not keep to, before the call waits for a slot.

        Raises:
            ValidationError: CONSTRAINT_INVALID or FIELD_INVALID (INVALID_ARGUMENT).
        """
        ...

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[PromptDone | Generated, None]:
        """Makes one completion in one slot: first `PromptDone` once or more, then `Generated` until one has `finish`.

        Closing the generator stops the model within one token, or one batch of the prompt. However it ends, and
        whatever cancels come meanwhile, it has ended only when the slot is free.

        Raises:
            ValidationError: CONSTRAINT_INVALID (INVALID_ARGUMENT).
            RunnerUnavailable: MODEL_PROCESS_LOST (UNAVAILABLE); the model comes back by itself.
        """
        ...

    def close(self) -> None:
        """Frees the model and its process. Blocks for milliseconds; may be called in any thread, and while it runs."""
        ...


@runtime_checkable
class ComputesAside(Protocol):
    """A model that is computed by a process of its own. Optional."""

    @property
    def process_id(self) -> int:
        """The process as of now; 0 while there is none."""
        ...
