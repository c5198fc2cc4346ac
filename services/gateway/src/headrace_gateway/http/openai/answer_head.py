"""What all parts of one of OpenAI's answers begin with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    CompletionDelta,
    GenerateResponse,
    GenerationUsage,
    TokenLogprob,
)

_FINISH = {FINISH_REASON_STOP: "stop", FINISH_REASON_LENGTH: "length"}


@dataclass(slots=True, kw_only=True)
class AnswerHead:
    """Identity of an answer.

    Attributes:
        id: Of the answer; has the request id that the logs of the mesh have.
        created: Seconds since 1970.
        model: The model as the request names it.
        fingerprint: Name and version that answer; None before the first message.
    """

    id: str
    created: int
    model: str
    fingerprint: str | None = None

    def heard(self, message: GenerateResponse) -> None:
        """Takes the version from the first message."""
        if message.model_name and self.fingerprint is None:
            self.fingerprint = f"{message.model_name}:{message.model_version}"

    def document(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """An answer, or a part of it, with the fields that all have."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


@dataclass(slots=True)
class UsageSum:
    """Tokens of all calls of an answer."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def add(self, usage: GenerationUsage) -> None:
        """Those of another call."""
        self.prompt += usage.prompt_tokens
        self.cached += usage.cached_prompt_tokens
        self.completion += usage.completion_tokens

    def document(self) -> dict[str, Any]:
        """As OpenAI has it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass(slots=True)
class Gathered:
    """What has come of one completion."""

    texts: list[str] = field(default_factory=list[str])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finish_reason: str | None = None

    def add(self, delta: CompletionDelta) -> None:
        """What is new of it."""
        self.texts.append(delta.text)
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = finish_of(delta) or self.finish_reason

    @property
    def text(self) -> str:
        return "".join(self.texts)


def finish_of(delta: CompletionDelta) -> str | None:
    """Why the completion ended; None where it goes on."""
    reason = delta.finish_reason
    return _FINISH.get(reason, "stop") if reason else None
