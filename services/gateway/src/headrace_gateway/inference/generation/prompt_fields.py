"""What a gateway must know of a request to generate, read without parsing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

from headrace_common import catalogue, wire
from headrace_common.errors import ValidationError
from headrace_gateway.inference.request_fields import PRIORITY_DEFAULT, checked_priority

BEGINNING_BYTES = 256
"""So much of prompts is compared: requests whose prompts begin alike find more of their prompt computed together."""
SESSION_CHARS_MAX = 128

_NAME, _VERSION = 1, 2
_TEXT, _TOKEN_IDS, _CHAT = 4, 5, 6
_SAMPLING, _COMPLETIONS = 7, 8
_PRIORITY, _SESSION, _CONTINUE = 11, 12, 13
_MAX_TOKENS, _JSON_SCHEMA, _GRAMMAR = 1, 13, 14
_IDS = 1
_MESSAGES, _ROLE, _CONTENT = 1, 1, 2
_INPUTS, _RAW_CONTENTS, _INPUT_NAME = 5, 7, 1
_FIELDS_MAX = 64
PLACES_MAX = 1_024
TOKENS_MAX = 1 << 24
"""Nobody generates more, whatever a request says."""
# Looked at; whether there are too many is for runners to say.
_SAMPLING_FIELDS, _MESSAGE_FIELDS = 2_048, 64
_USER = memoryview(b"user")
_PROMPT_INPUT = b"text_input"
# In front of an element of a BYTES tensor.
_LENGTH_BYTES = 4


class GenerateFields(NamedTuple):
    """Model name and version as the client wrote them, and what routing and failover look at.

    Attributes:
        priority: 5 where the client states none.
        affinity: The same for requests that should go to the same replica.
        can_continue: Whether another replica may go on after what the client has: it may, and there is one completion
            without a constraint.
        places: How many completions it asks for; of more than any runner computes at once, some number above that.
        tokens_max: Tokens that each may have; 0 where it doesn't say.
    """

    model_name: str
    model_version: str
    priority: int
    affinity: bytes
    can_continue: bool
    places: int = 1
    tokens_max: int = 0


def read_generate(request: bytes | memoryview) -> GenerateFields:
    """Walks a GenerateRequest; as in protobuf, the last of a repeated scalar wins.

    Raises:
        ValidationError: REQUEST_MALFORMED, FIELD_REQUIRED, FIELD_INVALID, FIELD_TOO_LONG (INVALID_ARGUMENT).
    """
    found: dict[int, int | memoryview] = {}
    constrained = False
    tokens_max = 0
    for number, _, value in wire.fields(request, fields_max=_FIELDS_MAX):
        found[number] = value
        if number in (_TEXT, _TOKEN_IDS, _CHAT):
            # Of a oneof the last one holds.
            for other in {_TEXT, _TOKEN_IDS, _CHAT} - {number}:
                found.pop(other, None)
        elif number == _SAMPLING:
            looked_at = list(islice(wire.fields(_view(value)), _SAMPLING_FIELDS))
            constrained |= _is_constrained(looked_at)
            for name, _, field in looked_at:
                if name == _MAX_TOKENS and isinstance(field, int):
                    tokens_max = field
    if not found.get(_NAME):
        raise ValidationError(
            "model_name is required",
            entry=catalogue.FIELD_REQUIRED,
            field="model_name",
            context={"field": "model_name"},
        )
    completions = _number(found.get(_COMPLETIONS, 0))
    continues = bool(found.get(_CONTINUE, True)) and completions <= 1 and not constrained
    return GenerateFields(
        wire.text(found[_NAME]),
        wire.text(found.get(_VERSION, memoryview(b""))),
        checked_priority(_number(found[_PRIORITY]), "priority") if _PRIORITY in found else PRIORITY_DEFAULT,
        _affinity(found),
        continues,
        min(max(1, completions), PLACES_MAX),
        min(tokens_max, TOKENS_MAX),
    )


def prompt_affinity(request: bytes) -> bytes:
    """The affinity of a ModelInferRequest by the beginning of its `text_input`; empty where it has none in raw form."""
    index = at = -1
    raw: list[memoryview] = []
    for number, _, value in wire.fields(request, fields_max=wire.REQUEST_FIELDS_MAX):
        if number == _INPUTS:
            index += 1
            if bytes(_first(_view(value), _INPUT_NAME)) == _PROMPT_INPUT:
                at = index
        elif number == _RAW_CONTENTS:
            raw.append(_view(value))
    # Before the text comes its length, which differs where only the beginnings are the same.
    text = raw[at][_LENGTH_BYTES : _LENGTH_BYTES + BEGINNING_BYTES] if 0 <= at < len(raw) else b""
    return _digest(text) if len(text) else b""


def session_affinity(session: str) -> bytes:
    """The affinity of the requests of a session."""
    return _digest(session.encode(), person=b"session")


def _affinity(found: dict[int, int | memoryview]) -> bytes:
    session = wire.text(found.get(_SESSION, memoryview(b"")))
    if len(session) > SESSION_CHARS_MAX:
        raise ValidationError(
            f"session has {len(session)} characters, at most {SESSION_CHARS_MAX} are accepted",
            entry=catalogue.FIELD_TOO_LONG,
            field="session",
            context={"field": "session", "limit": SESSION_CHARS_MAX},
        )
    if session:
        return session_affinity(session)
    if _TEXT in found:
        return _digest(_view(found[_TEXT])[:BEGINNING_BYTES])
    if _TOKEN_IDS in found:
        return _digest(_first(_view(found[_TOKEN_IDS]), _IDS)[:BEGINNING_BYTES])
    if _CHAT in found:
        return _digest(b"\0".join(_opening(_view(found[_CHAT])))[:BEGINNING_BYTES])
    return b""


def _opening(chat: memoryview) -> Iterator[bytes]:
    """A conversation as far as it is the same in each of its turns: up to what its user says first."""
    left = BEGINNING_BYTES
    for number, _, value in islice(wire.fields(chat), _MESSAGE_FIELDS):
        if number == _MESSAGES:
            role, content = (_first(_view(value), field) for field in (_ROLE, _CONTENT))
            yield bytes(role[:left])
            yield bytes(content[:left])
            left -= min(left, len(content))
            if not left or role == _USER:
                return


def _is_constrained(looked_at: Sequence[tuple[int, int, int | memoryview]]) -> bool:
    return len(looked_at) == _SAMPLING_FIELDS or any(number in (_JSON_SCHEMA, _GRAMMAR) for number, _, _ in looked_at)


def _first(message: memoryview, field: int) -> memoryview:
    for number, _, value in islice(wire.fields(message), _MESSAGE_FIELDS):
        if number == field and isinstance(value, memoryview):
            return value
    return memoryview(b"")


def _view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise wire.malformed()
    return value


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise wire.malformed()
    return value


def _digest(beginning: bytes | memoryview, *, person: bytes = b"prompt") -> bytes:
    return blake2b(beginning, digest_size=8, person=person).digest()
