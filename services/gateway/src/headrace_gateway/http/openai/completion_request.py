"""OpenAI's request for completions of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator

from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import GenerateRequest
from headrace_client.generation_request import encode_generate
from headrace_client.model_reference import ModelReference
from headrace_gateway.http.json_models import complaint
from headrace_gateway.http.openai.forms import Prompts
from headrace_gateway.http.openai.sampling_fields import SamplingFields

MAX_TOKENS_DEFAULT = 16
"""OpenAI's, for those who state none."""


class CompletionRequest(SamplingFields):
    """Body of `/completions`."""

    unserved: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **SamplingFields.unserved,
        "prompt_logprobs": (),
        "suffix": ("",),
    }

    prompt: Prompts
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = Field(
        default=None, description="Whether the text begins with its prompt, which must be a text."
    )

    @model_validator(mode="after")
    def _check_echo(self) -> Self:
        if self.echo and self.logprobs is not None:
            raise complaint("echo and logprobs can't be given together", field="echo")
        if self.echo and not all(isinstance(prompt, str) for prompt in self.prompt):
            raise complaint("echo needs prompts that are texts", field="echo")
        return self

    @property
    def completions_each(self) -> int:
        """Completions of each prompt."""
        return self.n or 1

    def to_generate(self, model: ModelReference, *, request_id: str) -> list[GenerateRequest]:
        """The mesh's requests, one for each prompt.

        Raises:
            ValidationError: FIELD_INVALID: a value that no message can hold.
        """
        options = self.options()
        if options.get("max_tokens") is None:
            options["max_tokens"] = MAX_TOKENS_DEFAULT
        options["top_logprobs"] = self.logprobs
        options["version"] = model.model_version
        options["request_id"] = request_id
        return [encode_generate(model.name, prompt, options) for prompt in self.prompt]

    @property
    def echoes(self) -> list[str]:
        """What the completions of each prompt begin with."""
        return [prompt if self.echo and isinstance(prompt, str) else "" for prompt in self.prompt]
