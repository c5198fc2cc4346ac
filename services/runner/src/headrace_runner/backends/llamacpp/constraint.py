"""Checks what an output must fit before llama.cpp gets it, which ignores what it can't use, and tells nobody."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, NoReturn, cast

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_runner.backends.generation import Sampling
from headrace_runner.backends.llamacpp.gbnf import GbnfInvalid, to_lark

SCHEMA_FIELD = "sampling.json_schema"
GRAMMAR_FIELD = "sampling.grammar"
# What is more than a second's work to prepare is refused in half of one.
_PREPARING_MAX = 500_000
_DEPTH_MAX = 100
_KEPT = 32
# Processor time to follow an output, saved up at most and given anew for each of its parts. A constraint that is read
# in few ways takes a hundredth of it. To find all that may come next, while everybody's tokens wait, llama.cpp takes
# some hundred times what this does.
_FOLLOWING_MAX_S = 0.01
_FOLLOWING_PER_PART_S = 0.0005


class Constraint(NamedTuple):
    """What an output must fit.

    Attributes:
        body: How llama.cpp is told.
        field: Where it comes from.
        matcher: llguidance's, at the beginning of an output.
    """

    body: dict[str, Any]
    field: str
    matcher: Any


class OutputCheck:
    """Follows an output with the library that llama.cpp uses too. Both stop where a constraint gets too costly."""

    def __init__(self, constraint: Constraint) -> None:
        self._field = constraint.field
        self._matcher = constraint.matcher.deep_copy()
        self._left_s = _FOLLOWING_MAX_S

    def follow(self, text: str, *, ended: bool) -> None:
        """Takes what is new of it; `ended` where the model has ended it there.

        Raises:
            ValidationError: CONSTRAINT_INVALID (INVALID_ARGUMENT): it does not fit, because llama.cpp gave up on the
                constraint, which it doesn't tell; or following it takes too long.
        """
        before_s = time.thread_time()
        fits = not text or self._matcher.consume_tokens(list(text.encode()))
        self._left_s = min(self._left_s + _FOLLOWING_PER_PART_S, _FOLLOWING_MAX_S) + before_s - time.thread_time()
        if not fits or self._left_s < 0 or (ended and not self._matcher.is_accepting()):
            raise invalid(self._field, "it is too complex to follow")


class Constraints:
    """The constraints of requests, the latest of them ready for use, or known to be unusable. One event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], asyncio.Task[Constraint | ValidationError]] = OrderedDict()

    async def of(self, sampling: Sampling) -> Constraint | None:
        """The constraint of a sampling; None where it has none.

        Raises:
            ValidationError: CONSTRAINT_INVALID (INVALID_ARGUMENT).
        """
        key = sampling.json_schema, sampling.grammar
        if not any(key):
            return None
        if key not in self._known:
            # Equal ones wait for the same work, which goes on where a request is cancelled.
            self._known[key] = asyncio.ensure_future(asyncio.to_thread(_constraint_or_why_not, sampling))
        self._known.move_to_end(key)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        found = await asyncio.shield(self._known[key])
        if isinstance(found, ValidationError):
            raise found.with_traceback(None)
        return found


def _constraint_or_why_not(sampling: Sampling) -> Constraint | ValidationError:
    try:
        return constraint_of(sampling)
    except ValidationError as error:
        return error


def constraint_of(sampling: Sampling) -> Constraint:
    """The constraint of a sampling that has one. Takes up to half a second, in any thread.

    Raises:
        ValidationError: CONSTRAINT_INVALID (INVALID_ARGUMENT).
    """
    matcher: Any = _library().LLMatcher
    if sampling.json_schema:
        schema = _schema(sampling.json_schema)
        try:
            grammar = matcher.grammar_from_json_schema(json.dumps(schema))
        except ValueError:
            raise invalid(SCHEMA_FIELD, _UNKNOWN_SCHEMA) from None
        return Constraint({"json_schema": schema}, SCHEMA_FIELD, _ready(grammar, SCHEMA_FIELD, _UNKNOWN_SCHEMA))
    try:
        lark = to_lark(sampling.grammar)
    except GbnfInvalid as error:
        raise invalid(GRAMMAR_FIELD, str(error)) from None
    grammar = matcher.grammar_from_lark(lark)
    return Constraint({"grammar": lark}, GRAMMAR_FIELD, _ready(grammar, GRAMMAR_FIELD, "it is too complex"))


_UNKNOWN_SCHEMA = "it is too complex, or no JSON schema of the parts that are supported"
_TOO_DEEP = f"it is nested deeper than {_DEPTH_MAX}"
FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid")
"""Of texts in a schema."""
# What is under them is no schema.
_VALUES = frozenset({"const", "default", "enum", "examples"})


def invalid(field: str, why: str) -> ValidationError:
    """INVALID_ARGUMENT: the field can't be used."""
    return ValidationError(
        f"{field} can't be used: {why}", entry=catalogue.CONSTRAINT_INVALID, context={"field": field}, field=field
    )


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


def _ready(grammar: str, field: str, complaint: str) -> Any:
    limits = _library().LLParserLimits(initial_lexer_fuel=_PREPARING_MAX)
    matcher = _library().LLMatcher(_byte_tokenizer(), grammar, log_level=0, limits=limits)
    if matcher.is_error():
        raise invalid(field, complaint)
    return matcher


def _schema(text: str) -> dict[str, Any]:
    try:
        schema: Any = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise invalid(SCHEMA_FIELD, _TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise invalid(SCHEMA_FIELD, f"it is not JSON (line {error.lineno}, column {error.colno})") from None
    except ValueError:
        raise invalid(SCHEMA_FIELD, "it has something that is no number of JSON") from None
    if not isinstance(schema, dict):
        raise invalid(SCHEMA_FIELD, "a JSON schema is an object")
    _check_parts(schema)  # pyright: ignore[reportUnknownArgumentType]
    return schema  # pyright: ignore[reportUnknownVariableType]


def _check_parts(schema: dict[str, Any]) -> None:
    parts: list[tuple[Any, int]] = [(schema, 0)]
    while parts:
        part, depth = parts.pop()
        if depth > _DEPTH_MAX:
            raise invalid(SCHEMA_FIELD, _TOO_DEEP)
        if isinstance(part, dict):
            within = cast("dict[str, Any]", part)
            if isinstance(within.get("format"), str) and within["format"] not in FORMATS:
                raise invalid(SCHEMA_FIELD, f"it has a format that is none of {', '.join(FORMATS)}")
            parts += [(value, depth + 1) for name, value in within.items() if name not in _VALUES]
        elif isinstance(part, list):
            parts += [(value, depth + 1) for value in cast("list[Any]", part)]


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
