"""Checks what an output must fit before llama.cpp gets it, which ignores schemas that it can't use."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any, NoReturn

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_runner.backends.generation import Sampling

GRAMMAR_BYTES_MAX = 16 << 10
"""A larger one stops all sequences of the process for seconds."""
SCHEMA_BYTES_MAX = 64 << 10

SCHEMA_FIELD = "sampling.json_schema"
GRAMMAR_FIELD = "sampling.grammar"
# What begins so is another kind of grammar, which llama.cpp ignores where it is wrong.
_OTHER_GRAMMAR = "%llguidance"
_REASON_CHARACTERS_MAX = 300


def check_constraint(sampling: Sampling) -> None:
    """Refuses a schema that can't be used, and a grammar that is too large. Takes milliseconds.

    Raises:
        ValidationError: CONSTRAINT_INVALID (INVALID_ARGUMENT).
    """
    if sampling.json_schema:
        _check_schema(sampling.json_schema)
    elif sampling.grammar:
        _check_grammar(sampling.grammar)


def invalid(field: str, why: str) -> ValidationError:
    """INVALID_ARGUMENT: the field can't be used."""
    return ValidationError(
        f"{field} can't be used: {why}", entry=catalogue.CONSTRAINT_INVALID, context={"field": field}, field=field
    )


def _check_schema(text: str) -> None:
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
    matcher: Any = import_module("llguidance").LLMatcher
    try:
        bad, messages = matcher.validate_grammar_with_warnings(matcher.grammar_from_json_schema(json.dumps(schema)))
    except Exception as error:  # noqa: BLE001 - a library in Rust; whatever it is, the schema can't be used
        raise invalid(SCHEMA_FIELD, str(error)[:_REASON_CHARACTERS_MAX]) from None
    if bad:
        raise invalid(SCHEMA_FIELD, "; ".join(map(str, messages))[:_REASON_CHARACTERS_MAX])


def _check_grammar(text: str) -> None:
    if len(text.encode()) > GRAMMAR_BYTES_MAX:
        raise invalid(GRAMMAR_FIELD, f"it has more than {GRAMMAR_BYTES_MAX} bytes")
    if text.lstrip().startswith(_OTHER_GRAMMAR):
        raise invalid(GRAMMAR_FIELD, "it must be GBNF")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
