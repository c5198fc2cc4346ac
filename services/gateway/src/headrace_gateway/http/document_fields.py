"""Fields of a parsed document: each is what it must be, or refused by its path."""

from __future__ import annotations

from typing import Any, TypeGuard, cast

import orjson

from headrace_client import failures
from headrace_client.errors import ValidationError
from headrace_client.inference import parameter_of
from headrace_common import catalogue
from headrace_gateway.http.failures import failed

Object = dict[str, Any]
ENTRIES_MAX = 1_024
"""Names of one object or entries of one list, tensors' elements apart: no body of nothing but names holds others up."""
WHOLE = "the body"
"""The path of the document itself."""
SHOWN = 64
"""Characters of a client's own name that a failure repeats."""


def parse_json(text: bytes | memoryview) -> object:
    """What a JSON text says.

    Raises:
        ValidationError: REQUEST_MALFORMED, it is none.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        hint = ""
        if bytes(text[error.pos : error.pos + 9]).lstrip(b"-").startswith((b"NaN", b"Inf")):
            hint = '; JSON has no NaN or infinity: write them as texts, "NaN", "Infinity", "-Infinity"'
        raise ValidationError(f"the JSON can't be read: {error}{hint}", failures.REQUEST_MALFORMED) from None


def object_at(value: object, field: str) -> Object:
    if not isinstance(value, dict):
        raise refused(field, "is missing" if value is None else "must be an object")
    entries = cast("dict[object, Any]", value)
    if len(entries) > ENTRIES_MAX:
        raise refused(field, f"may have {ENTRIES_MAX} entries at most")
    if not all(isinstance(name, str) for name in entries):
        # MessagePack can have others.
        raise refused(field, "must have texts as names")
    return cast("Object", value)


def list_at(value: object, field: str, *, entries_max: int = ENTRIES_MAX) -> list[object]:
    if not isinstance(value, list):
        raise refused(field, "is missing" if value is None else "must be a list")
    entries = cast("list[object]", value)
    if len(entries) > entries_max:
        raise refused(field, f"may have {entries_max} entries at most")
    return entries


def text_at(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise refused(field, "is missing" if value is None else "must be a text")
    return value


def flag_at(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise refused(field, "must be true or false")
    return value


def whole_number_at(value: object, field: str, *, least: int, most: int) -> int:
    if not _is_whole(value) or not least <= value <= most:
        raise refused(field, f"must be a whole number of {least} to {most}")
    return value


def known_fields(document: Object, known: frozenset[str], place: str = "") -> None:
    """Refuses fields that nobody reads: most are misspelt.

    Raises:
        ValidationError: There is one.
    """
    if not document.keys() <= known:
        unknown = min(document.keys() - known)[:SHOWN]
        field = f"{place}.{unknown}" if place else unknown
        raise refused(field, f"is not a field here; there are {', '.join(sorted(known))}")


def set_parameters(target: Any, parameters: Object, field: str) -> None:
    """Puts parameters into a message's map of them.

    Raises:
        ValidationError: One is neither a text, a number nor a truth value.
    """
    for name, value in parameters.items():
        target[name].CopyFrom(parameter_of(name[:SHOWN], value, field=f"{field}.{name[:SHOWN]}"))


def refused(field: str, why: str) -> ValidationError:
    """The failure of a field, to raise."""
    entry = catalogue.FIELD_REQUIRED if why == "is missing" else catalogue.FIELD_INVALID
    error = failed(entry, f"{field} {why}", field=None if field == WHOLE else field)
    assert isinstance(error, ValidationError)
    return error


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
