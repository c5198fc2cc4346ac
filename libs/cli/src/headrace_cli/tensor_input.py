"""Turns what a person gives for an input tensor into values."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace_client.errors import ValidationError

_NPY_MAGIC = b"\x93NUMPY"
# PNG and JPEG.
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


@dataclass(frozen=True, kw_only=True)
class InputArgument:
    """One `--input`: the tensor's name (None: the model's only input) and where its value comes from."""

    name: str | None
    source: str


def parse_input_argument(text: str) -> InputArgument:
    """Split `name=source`; without a name the whole text is the source."""
    name, separator, source = text.partition("=")
    if separator and name and not name.lstrip().startswith(("[", "{", '"', "@", "-")):
        return InputArgument(name=name, source=source)
    return InputArgument(name=None, source=text)


def read_source(source: str, *, read_stdin: Callable[[], bytes]) -> Any:
    """The value of a source: `@file.npy`, `@file.json`, `@picture.png`, `-` (standard input) or a JSON literal.

    Raises:
        ValidationError: the file can't be read, or is neither NPY, JSON nor a picture.
    """
    if source == "-":
        return _decoded(read_stdin(), "standard input")
    if source.startswith("@"):
        path = Path(source[1:]).expanduser()
        try:
            return _decoded(path.read_bytes(), str(path))
        except OSError as error:
            raise ValidationError(f"{path} can't be read: {error.strerror}") from None
    return _decoded(source.encode(errors="surrogateescape"), "the input")


def parse_parameter(text: str) -> tuple[str, bool | int | float | str]:
    """Split `name=value`; a JSON number, bool or quoted text is one, anything else is the text as it stands.

    Raises:
        ValidationError: there is no name or no `=`.
    """
    name, separator, value = text.partition("=")
    if not (separator and name):
        raise ValidationError(f"'{text}' is no parameter: write NAME=VALUE", field="parameter")
    try:
        parsed: object = json.loads(value)
    except (ValueError, RecursionError):
        return name, value
    return name, parsed if isinstance(parsed, bool | int | float | str) else value


def _decoded(content: bytes, origin: str) -> Any:
    if content.startswith(_NPY_MAGIC):
        try:
            return np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError):
            # What a damaged header may lead to; a pickle, which could run code, is a ValueError.
            raise ValidationError(f"{origin} is not an NPY file of numbers or texts") from None
    if content.startswith(_PICTURES) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP"):
        return [content]
    try:
        return json.loads(content)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise ValidationError(f"{origin} is neither JSON nor an NPY file") from None
