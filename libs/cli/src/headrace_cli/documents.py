"""Answers for programs: JSON on standard output."""

from __future__ import annotations

import json
import sys
from typing import cast


def print_json(value: object) -> None:
    """One document, for people who look at it, too."""
    _write(json.dumps(plain(value), indent=2, ensure_ascii=False))


def print_json_line(value: object) -> None:
    """One line of a stream of documents, there at once."""
    _write(json.dumps(plain(value), ensure_ascii=False))


def plain(value: object) -> object:
    """The value with protobuf messages as mappings of their fields' names in the contract."""
    # Loaded here because help and completion need no JSON.
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import Message

    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if isinstance(value, list):
        return [plain(element) for element in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: plain(element) for key, element in cast("dict[str, object]", value).items()}
    return value


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
