"""Checks what an output must fit before llama.cpp gets it, which ignores schemas that it can't use."""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, NoReturn, Protocol

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_runner.backends.generation import GRAMMAR_BYTES_MAX, SCHEMA_BYTES_MAX, Sampling

SCHEMA_FIELD = "sampling.json_schema"
GRAMMAR_FIELD = "sampling.grammar"
# What begins so is another kind of grammar, which llama.cpp ignores where it is wrong.
_OTHER_GRAMMAR = "%llguidance"
_REASON_CHARACTERS_MAX = 300


class OutputCheck(Protocol):
    """Follows an output that a constraint was given for."""

    def follow(self, text: str, *, ended: bool) -> None:
        """Takes what is new of it; `ended` where the model has ended it there.

        Raises:
            ValidationError: CONSTRAINT_INVALID (INVALID_ARGUMENT): it does not fit, because llama.cpp gave up on the
                constraint, which it doesn't tell.
        """
        ...


def check_constraint(sampling: Sampling) -> OutputCheck | None:
    """Refuses a schema that can't be used, and a grammar that is too large. Takes up to 0.1 s, in any thread.

    Returns:
        What the output is to be followed with, where llama.cpp may give up on the constraint.

    Raises:
        ValidationError: CONSTRAINT_INVALID (INVALID_ARGUMENT).
    """
    if sampling.json_schema:
        return _SchemaCheck(_grammar_of_schema(sampling.json_schema))
    if sampling.grammar:
        _check_grammar(sampling.grammar)
    return None


def invalid(field: str, why: str) -> ValidationError:
    """INVALID_ARGUMENT: the field can't be used."""
    return ValidationError(
        f"{field} can't be used: {why}", entry=catalogue.CONSTRAINT_INVALID, context={"field": field}, field=field
    )


class _SchemaCheck:
    """Follows an output with the library that llama.cpp uses too. Both stop where a schema gets too costly."""

    def __init__(self, grammar: str) -> None:
        self._matcher: Any = _library().LLMatcher(_byte_tokenizer(), grammar, log_level=0)

    def follow(self, text: str, *, ended: bool) -> None:
        fits = not text or self._matcher.consume_tokens(list(text.encode()))
        if not fits or (ended and not self._matcher.is_accepting()):
            raise invalid(SCHEMA_FIELD, "it is too complex to follow")


class _Bytes:
    """A vocabulary of single bytes, as llguidance wants it."""

    eos_token_id = 256
    bos_token_id = None
    tokens: ClassVar = [*(bytes([value]) for value in range(256)), b"<end>"]
    special_token_ids: ClassVar = [256]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def _library() -> Any:
    return import_module("llguidance")


@cache
def _byte_tokenizer() -> Any:
    return _library().LLTokenizer(_library().TokenizerWrapper(_Bytes()))


def _grammar_of_schema(text: str) -> str:
    if len(text.encode()) > SCHEMA_BYTES_MAX:
        raise invalid(SCHEMA_FIELD, f"it has more than {SCHEMA_BYTES_MAX} bytes")
    try:
        schema = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise invalid(SCHEMA_FIELD, "it is nested too deep") from None
    except ValueError as error:
        raise invalid(SCHEMA_FIELD, f"it is not JSON ({error})"[:_REASON_CHARACTERS_MAX]) from None
    if not isinstance(schema, dict):
        raise invalid(SCHEMA_FIELD, "a JSON schema is an object")
    matcher: Any = _library().LLMatcher
    try:
        grammar: str = matcher.grammar_from_json_schema(json.dumps(schema))
        bad, messages = matcher.validate_grammar_with_warnings(grammar)
    except Exception as error:  # noqa: BLE001 - a library in Rust; whatever it is, the schema can't be used
        raise invalid(SCHEMA_FIELD, str(error)[:_REASON_CHARACTERS_MAX]) from None
    if bad:
        raise invalid(SCHEMA_FIELD, "; ".join(map(str, messages))[:_REASON_CHARACTERS_MAX])
    return grammar


def _check_grammar(text: str) -> None:
    if len(text.encode()) > GRAMMAR_BYTES_MAX:
        raise invalid(GRAMMAR_FIELD, f"it has more than {GRAMMAR_BYTES_MAX} bytes")
    if text.lstrip().startswith(_OTHER_GRAMMAR):
        raise invalid(GRAMMAR_FIELD, "it must be GBNF")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
