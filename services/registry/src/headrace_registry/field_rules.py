"""What the fields of requests may hold: names, versions, texts, paths, digests. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from headrace_common import catalogue
from headrace_common.errors import ModelError, ValidationError

TEXT_CHARS_MAX = 256
PAIRS_MAX = 64
DESCRIPTION_CHARS_MAX = 1_024
VERSION_MAX = 999_999_999_999_999

_MODEL_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN_CHARS = 128


def check_model_name(name: str, *, field: str) -> str:
    """The name, if it follows the grammar.

    Raises:
        ModelError: MODEL_NAME_INVALID (INVALID_ARGUMENT).
    """
    if not _MODEL_NAME.fullmatch(name):
        raise ModelError(
            f"{field} must be 1 to 128 letters, digits, '.', '_' or '-', a letter or digit first",
            entry=catalogue.MODEL_NAME_INVALID,
            context={"model": name[:_SHOWN_CHARS]},
            field=field,
        )
    return name


def check_version(version: int, *, zero: str | None, field: str = "version") -> int:
    """The number, if a version can have it.

    Args:
        version: What the request says.
        zero: What 0 stands for here; None where a number is required.
        field: Names it in the failure.

    Raises:
        ModelError: MODEL_VERSION_INVALID (INVALID_ARGUMENT).
    """
    if not (0 if zero else 1) <= version <= VERSION_MAX:
        instead = f", or 0 for {zero}" if zero else ""
        raise ModelError(
            f"{field} must be 1 to {VERSION_MAX}{instead}",
            entry=catalogue.MODEL_VERSION_INVALID,
            context={"version": version},
            field=field,
        )
    return version


def check_file_name(name: str, *, field: str) -> str:
    """The name, if it is a plain one: no folders, no hidden file, nothing that another system reads differently.

    Raises:
        ValidationError: NAME_INVALID (INVALID_ARGUMENT).
    """
    if not _FILE_NAME.fullmatch(name):
        raise ValidationError(
            f"{field} must be a plain file name: 1 to 128 letters, digits, '.', '_', '+' or '-', "
            "a letter, digit or '_' first, without folders",
            entry=catalogue.NAME_INVALID,
            context={"field": field},
            field=field,
        )
    return name


def check_sha256(text: str, *, field: str) -> str:
    """The digest, if it is one.

    Raises:
        ValidationError: FIELD_REQUIRED or FIELD_INVALID (INVALID_ARGUMENT).
    """
    if not text:
        raise required(field)
    if not _SHA256.fullmatch(text):
        raise invalid(field, "must be 64 lower-case hexadecimal digits")
    return text


def check_text(text: str, *, field: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """The text, if it is short enough and has no NUL, which the database can't hold.

    Raises:
        ValidationError: FIELD_TOO_LONG or FIELD_INVALID (INVALID_ARGUMENT).
    """
    if len(text) > chars_max:
        raise too_long(field, f"has {len(text)} characters, at most {chars_max} are allowed", chars_max)
    if "\0" in text:
        raise invalid(field, "must not hold the character U+0000")
    return text


def check_pairs(pairs: Mapping[str, str], *, field: str) -> dict[str, str]:
    """A copy of the pairs, if there are at most 64 of at most 256 characters each.

    Raises:
        ValidationError: FIELD_TOO_LONG or FIELD_INVALID (INVALID_ARGUMENT).
    """
    if len(pairs) > PAIRS_MAX:
        raise too_long(field, f"has {len(pairs)} pairs, at most {PAIRS_MAX} are allowed", PAIRS_MAX)
    for key, value in pairs.items():
        if not key:
            raise invalid(field, "must not have an empty key")
        check_text(key, field=f"{field} (a key)")
        check_text(value, field=f"{field}[{key}]")
    return dict(pairs)


def required(field: str) -> ValidationError:
    """FIELD_REQUIRED."""
    return ValidationError(
        f"{field} is required", entry=catalogue.FIELD_REQUIRED, context={"field": field}, field=field
    )


def invalid(field: str, why: str) -> ValidationError:
    """FIELD_INVALID."""
    return ValidationError(f"{field} {why}", entry=catalogue.FIELD_INVALID, context={"field": field}, field=field)


def too_long(field: str, why: str, limit: int) -> ValidationError:
    """FIELD_TOO_LONG."""
    return ValidationError(
        f"{field} {why}",
        entry=catalogue.FIELD_TOO_LONG,
        context={"field": field, "limit": limit},
        field=field,
    )
