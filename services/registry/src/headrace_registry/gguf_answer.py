"""Reads what the inspection of a GGUF answered, believing nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from headrace_common.gguf import GgufHeader

_NUMBER_MAX = 1 << 62
_TEXT_CHARS_MAX = 1_024
_KINDS: Mapping[str, type] = {"int": int, "int | None": int, "str": str, "bool": bool}


def header_of(document: Mapping[str, object]) -> GgufHeader:
    """The header in an answer.

    Raises:
        ValueError, TypeError: A field has another type, is negative or much too large.
        KeyError: A field is missing.
    """
    stated = document["header"]
    if not isinstance(stated, dict):
        raise TypeError("not a header")
    values = cast("dict[str, object]", stated)
    checked: dict[str, Any] = {}
    for field in fields(GgufHeader):
        value = values[field.name]
        if value is None and "None" in str(field.type):
            checked[field.name] = None
            continue
        if type(value) is not _KINDS[str(field.type)]:
            raise ValueError("not what a header has")
        if isinstance(value, int) and not 0 <= value <= _NUMBER_MAX:
            raise ValueError("not a number that a header has")
        checked[field.name] = value[:_TEXT_CHARS_MAX] if isinstance(value, str) else value
    return GgufHeader(**checked)
