"""What a person sees: colours, ticks and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.theme import Theme

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
    return Console(theme=_THEME, highlight=False, soft_wrap=True)


def messages() -> Console:
    """For problems: standard error."""
    return Console(theme=_THEME, highlight=False, soft_wrap=True, stderr=True)
