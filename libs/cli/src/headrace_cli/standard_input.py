"""What a person pipes into a command, or types on its terminal."""

from __future__ import annotations

import sys

from rich.text import Text

from headrace_cli.terminal import messages
from headrace_client.errors import ValidationError


def read_standard_input(awaited: str) -> bytes:
    """All of standard input; on a terminal says first what is awaited, which would else look like a slow answer.

    Args:
        awaited: What to type, in words that a sentence may begin with.
    """
    if sys.stdin.isatty():
        messages().print(Text(f"{awaited}; Ctrl-D on an empty line ends it:", style="quiet"))
    return sys.stdin.buffer.read()


def decoded(content: bytes, origin: str) -> str:
    """The text without one newline at its end.

    Raises:
        ValidationError: it is not UTF-8.
    """
    try:
        return content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise ValidationError(f"{origin} is not UTF-8", field="prompt") from None
