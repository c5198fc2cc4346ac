"""Fields of OpenAI's requests that have several forms, each brought into one."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, cast

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

PROMPTS_MAX = 128
"""Prompts of one request for completions."""
INPUTS_MAX = 2_048
"""Inputs of one request for embeddings."""
_TOKEN_MAX = (1 << 32) - 1

Prompt: TypeAlias = str | list[int]


def _refused(message: str) -> PydanticCustomError:
    return PydanticCustomError("form", "{message}", {"message": message})


def _stops(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _content(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _refused("it must be a text, or a list of parts with texts")
    texts: list[str] = []
    for index, part in enumerate(cast("list[Any]", value)):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):  # pyright: ignore[reportUnknownMemberType]
            raise _refused(f"part {index} must be an object with a type")
        if part["type"] not in {"text", "input_text", "output_text", "refusal"}:
            raise _refused(f"part {index} is of type {part['type'][:40]!r}; the models here read text only")
        text: object = part.get("refusal" if part["type"] == "refusal" else "text")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if not isinstance(text, str):
            raise _refused(f"part {index} has no text")
        texts.append(text)
    return "\n".join(texts)


def _prompts(value: object) -> list[Prompt]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise _refused("it must be a text, a list of texts, a list of tokens, or a list of those; none of them empty")
    items = cast("list[object]", value)
    if _is_token(items[0]):
        return [_tokens(items)]
    return [item if isinstance(item, str) else _tokens(item) for item in items]


def _tokens(value: object) -> list[int]:
    if not isinstance(value, list) or not value or not all(map(_is_token, cast("list[object]", value))):
        raise _refused(f"tokens must be whole numbers from 0 to {_TOKEN_MAX}, at least one, and not mixed with texts")
    return cast("list[int]", value)


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _TOKEN_MAX


def _bounded(limit: int) -> Any:
    def check(value: object) -> list[Prompt]:
        prompts = _prompts(value)
        if len(prompts) > limit:
            raise _refused(f"there are {len(prompts)} of them; at most {limit} are allowed")
        return prompts

    return check


_TEXT = {"type": "string"}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": _TOKEN_MAX}, "minItems": 1}


def _schema(limit: int) -> WithJsonSchema:
    several = {"type": "array", "minItems": 1, "maxItems": limit}
    return WithJsonSchema({"anyOf": [_TEXT, _TOKENS, {**several, "items": _TEXT}, {**several, "items": _TOKENS}]})


Model = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "description": "`NAME`, `NAME:VERSION` or `NAME:ALIAS`.",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}([:@][A-Za-z0-9][A-Za-z0-9._-]{0,63})?$",
        }
    ),
]
"""What `headrace_client.model_reference` reads."""

Stops = Annotated[
    list[str],
    BeforeValidator(_stops),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 16}]}),
]
"""A text or a list of texts."""

Content = Annotated[
    str | None,
    BeforeValidator(_content),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": _TEXT},
                        "required": ["type", "text"],
                    },
                },
                {"type": "null"},
            ]
        }
    ),
]
"""A text, or a list of parts, whose texts become lines."""

Prompts = Annotated[list[Prompt], BeforeValidator(_bounded(PROMPTS_MAX)), _schema(PROMPTS_MAX)]
"""Prompts of completions: texts or tokens."""

Inputs = Annotated[list[Prompt], BeforeValidator(_bounded(INPUTS_MAX)), _schema(INPUTS_MAX)]
"""Inputs of embeddings: texts or tokens."""
