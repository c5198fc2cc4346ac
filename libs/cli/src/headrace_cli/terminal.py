"""What a person sees: colours, ticks and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os

from rich.console import Console
from rich.theme import Theme

_PIPE_COLUMNS = 240
_THEME = Theme(
    {
        "good": "green",
        "bad": "bold red",
        "warn": "yellow",
        "quiet": "bright_black",
        "name": "bold",
        "value": "cyan",
    }
)


def output() -> Console:
    """For answers: standard output. Names and paths are printed as they are, never read as markup or numbers."""
    console = Console(theme=_THEME, highlight=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Nobody measures a pipe: a table that is folded for 80 columns can't be searched.
        console.width = _PIPE_COLUMNS
    return console


def messages() -> Console:
    """For problems: standard error."""
    return Console(theme=_THEME, highlight=False, soft_wrap=True, stderr=True)
