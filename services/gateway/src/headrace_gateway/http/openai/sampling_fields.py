"""What chats and completions have in common: how tokens are chosen, and what of OpenAI's requests is not served.

Ranges are the mesh's to check, which names the range in its refusal; here they are in the schema only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, Field, model_validator

from headrace_client.errors import ValidationError
from headrace_client.generation_request import GenerateOptions
from headrace_gateway.http.json_models import STRICT, complaint
from headrace_gateway.http.openai.forms import Model, Stops

_SEEDS = (1 << 32) - 1
"""The mesh's seeds are below it, OpenAI's are of 64 bits."""


def _between(minimum: float, maximum: float | None = None) -> Any:
    bounds: dict[str, float] = {"minimum": minimum} if maximum is None else {"minimum": minimum, "maximum": maximum}

    def add(schema: dict[str, Any]) -> None:
        number = next(form for form in schema["anyOf"] if form["type"] != "null")
        number.update(bounds)

    return Field(default=None, json_schema_extra=add)


def _tokens_as_names(schema: dict[str, Any]) -> None:
    biases = next(form for form in schema["anyOf"] if form["type"] != "null")
    biases["propertyNames"] = {"pattern": "^[0-9]{1,10}$"}


class StreamOptions(BaseModel):
    """What a stream tells beside its text."""

    model_config = STRICT

    include_usage: bool | None = Field(default=None, description="A last chunk with the tokens of the whole call.")
    include_obfuscation: bool | None = Field(default=None, description="Accepted; nothing is added to the chunks.")


class SamplingFields(BaseModel):
    """Fields with the names of OpenAI, and of vLLM for what OpenAI lacks."""

    model_config = STRICT

    unserved: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "best_of": (1,),
        "include_stop_str_in_output": (False,),
        "length_penalty": (1,),
        "min_tokens": (0,),
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,),
        "stop_token_ids": ([],),
        "use_beam_search": (False,),
    }
    """Fields that would change the result and are not served, with the values of them that ask for nothing."""

    model: Model
    max_tokens: Annotated[int | None, _between(1)] = None
    temperature: Annotated[float | None, _between(0, 5)] = None
    top_p: Annotated[float | None, _between(0, 1)] = None
    presence_penalty: Annotated[float | None, _between(-2, 2)] = None
    frequency_penalty: Annotated[float | None, _between(-2, 2)] = None
    n: int | None = Field(default=None, ge=1, le=128)
    stop: Stops | None = None
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    logit_bias: Annotated[dict[str, float] | None, Field(json_schema_extra=_tokens_as_names)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: Annotated[int | None, _between(-1, 100_000)] = None
    min_p: Annotated[float | None, _between(0, 1)] = None
    repetition_penalty: Annotated[float | None, _between(0.01, 5)] = None
    ignore_eos: bool | None = None
    priority: Annotated[int | None, _between(0, 9)] = None
    prompt_cache_key: str | None = Field(default=None, description="Calls with one key share a replica's prompt cache.")
    user: str | None = Field(default=None, description="Accepted; means nothing here.")
    safety_identifier: str | None = Field(default=None, description="Accepted; means nothing here.")
    service_tier: str | None = Field(default=None, description="Accepted; means nothing here.")
    store: bool | None = Field(default=None, description="Accepted; nothing is stored.")
    metadata: dict[str, str] | None = Field(default=None, description="Accepted; means nothing here.")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unserved(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept: dict[Any, Any] = dict(values)  # pyright: ignore[reportUnknownArgumentType]
        for name, allowed in cls.unserved.items():
            if name in kept and kept.pop(name) not in (None, *allowed):
                raise complaint(f"{name} is not served here", field=name)
        return kept

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise complaint("stream_options may be given only where stream is true", field="stream_options")
        return self

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def options(self) -> GenerateOptions:
        """What the mesh is asked, by the names that it has for it."""
        return GenerateOptions(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            completions=self.n,
            stop=self.stop,
            seed=None if self.seed is None else self.seed % _SEEDS,
            logit_bias=None if self.logit_bias is None else _biases(self.logit_bias),
            top_k=0 if self.top_k == -1 else self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            ignore_end=self.ignore_eos,
            priority=self.priority,
            session=self.prompt_cache_key,
        )


def _biases(given: dict[str, float]) -> dict[int, float]:
    """Biases by token.

    Raises:
        ValidationError: FIELD_INVALID: a key is no token.
    """
    for token in given:
        if not (token.isascii() and token.isdecimal() and len(token) <= 10):
            raise ValidationError(f"logit_bias has the key {token[:40]!r}, which is no token", field="logit_bias")
    return {int(token): bias for token, bias in given.items()}
