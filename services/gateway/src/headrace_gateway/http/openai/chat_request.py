"""OpenAI's request for a chat completion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import GenerateRequest
from headrace_client.errors import ValidationError
from headrace_client.generation_request import encode_generate
from headrace_client.model_reference import ModelReference
from headrace_gateway.http.json_models import STRICT, complaint
from headrace_gateway.http.openai.forms import Content
from headrace_gateway.http.openai.sampling_fields import SamplingFields

_ANY_OBJECT = '{"type": "object"}'


class ChatMessage(BaseModel):
    """What one party said."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    name: str | None = Field(default=None, description="Accepted; the model is not told.")
    tool_call_id: str | None = Field(default=None, description="Accepted; the model is not told.")
    refusal: str | None = Field(default=None, description="Accepted; the model is not told.")
    tool_calls: list[Any] | None = Field(default=None, max_length=0)
    annotations: list[Any] | None = Field(default=None, description="Accepted; the model is not told.")

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if self.content is None:
            raise complaint("a message needs a content", field="messages")
        return self


class JsonSchema(BaseModel):
    """A schema with the name that clients give it."""

    model_config = STRICT

    name: str
    description: str | None = None
    strict: bool | None = Field(default=None, description="Accepted; the output always fits the schema.")
    # Not `schema`: pydantic's models have a method of that name.
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """What the output must be: any text, an object in JSON, or JSON that fits a schema."""

    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.json_schema is not None) is not (self.type == "json_schema"):
            message = "response_format has a json_schema where its type is json_schema, and only there"
            raise complaint(message, field="response_format.json_schema")
        return self


class ChatRequest(SamplingFields):
    """Body of `/chat/completions`."""

    unserved: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **SamplingFields.unserved,
        "audio": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "parallel_tool_calls": (True, False),
        "prediction": (),
        "reasoning_effort": ("none",),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "verbosity": ("medium",),
        "web_search_options": (),
    }

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(default=None, description="The newer name of `max_tokens`; it counts.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    add_generation_prompt: bool | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise complaint("top_logprobs may be given only where logprobs is true", field="top_logprobs")
        return self

    def to_generate(self, model: ModelReference, *, request_id: str) -> GenerateRequest:
        """The mesh's request.

        Raises:
            ValidationError: FIELD_INVALID: a value that no message can hold.
        """
        options = self.options()
        if self.max_completion_tokens is not None:
            options["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            options["top_logprobs"] = self.top_logprobs or 0
        options["json_schema"] = self._schema()
        options["add_generation_prompt"] = self.add_generation_prompt
        options["version"] = model.model_version
        options["request_id"] = request_id
        messages = [
            ("system" if message.role == "developer" else message.role, message.content or "")
            for message in self.messages
        ]
        return encode_generate(model.name, messages, options)

    def _schema(self) -> str | None:
        form = self.response_format
        if form is None or form.type == "text":
            return None
        if form.json_schema is None:
            return _ANY_OBJECT
        try:
            return json.dumps(form.json_schema.schema_, ensure_ascii=False, allow_nan=False)
        except ValueError:
            field = "response_format.json_schema.schema"
            raise ValidationError(f"{field} has a number that JSON lacks", field=field) from None
