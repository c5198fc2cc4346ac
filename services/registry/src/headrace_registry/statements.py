"""The SQL of the service: one statement a file, loaded by name."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import LiteralString, cast


@cache
def statement(name: str) -> LiteralString:
    """The text of `sql/<name>.sql`; values are bound by name, never put into the text."""
    text = (files("headrace_registry") / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    return cast("LiteralString", text)
