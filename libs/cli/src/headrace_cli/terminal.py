"""What a person sees: colours, ticks, tables and bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager

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
    console = Console(theme=_THEME, highlight=False, soft_wrap=True, emoji=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Nobody measures a pipe: a table that is folded for 80 columns can't be searched.
        console.width = _PIPE_COLUMNS
    return console


def messages() -> Console:
    """For problems and progress: standard error."""
    return Console(theme=_THEME, highlight=False, soft_wrap=True, emoji=False, markup=False, stderr=True)


@contextmanager
def transfer_bar(verb: str, *, then: str) -> Generator[Callable[[int, int], None]]:
    """A bar on terminals while bytes move; `then` is what happens between the last byte and the end.

    The callable takes the bytes moved so far and those in all; any thread may call it.
    """
    # Loaded here because most commands show no bar.
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    console = messages()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=None)

        def moved(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description=then if done >= total else verb)

        yield moved


@contextmanager
def elapsed(what: str) -> Generator[None]:
    """The passing time on terminals while something takes its time."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = messages()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield
