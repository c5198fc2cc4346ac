"""A conversation with a language model, from a terminal or a pipe."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from typing import cast

from rich.text import Text

from headrace_cli.documents import print_json_line
from headrace_cli.failures import explain
from headrace_cli.generation_call import TIMEOUT_S, Watch, show
from headrace_cli.model_names import split_version
from headrace_cli.sampling_options import Sampling
from headrace_cli.session import Session
from headrace_cli.terminal import messages
from headrace_client import BlockingGeneration, Client, GenerateOptions
from headrace_client.errors import HeadraceError, ValidationError

_BLOCK = '"""'
_HELP = f"/exit ends, /clear begins anew; {_BLOCK} before and after several lines; Ctrl-C ends an answer."


def converse(session: Session, model: str, *, system: str | None, options: Sampling, stats: bool) -> None:
    """Answer message after message until the input ends. On a terminal a failed or interrupted answer doesn't end it.

    Raises:
        BadParameter: the version is not a number.
        HeadraceError: a message could not be read, or, elsewhere than on a terminal, was not answered.
    """
    name, number = split_version(model)
    # Its messages have their beginning in common: whoever has computed it shall go on.
    asked = cast("GenerateOptions", {"session": secrets.token_hex(8), **options, "version": number})
    opening = [("system", system)] if system is not None else []
    said = list(opening)
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal:
        _tell(f"{name}. {_HELP}")
    with session.client(timeout_s=TIMEOUT_S) as client:
        while (message := read_message(_line_reader(at_terminal=at_terminal))) is not None:
            command = message.strip()
            if command == "/exit":
                return
            elif command == "/clear":
                said = list(opening)
                _tell("cleared")
            elif command == "/help":
                _tell(_HELP)
            elif command:
                said.append(("user", message))
                try:
                    said.append(("assistant", _answer(client, name, said, asked, session=session, stats=stats)))
                except HeadraceError as error:
                    if not at_terminal:
                        raise
                    said.pop()
                    explain(error, as_json=False)


def read_message(read_line: Callable[[], str | None]) -> str | None:
    """The next message, of one line or several; None at the end of the input.

    Args:
        read_line: Gives a line without its newline; None at the end.
    """
    line = read_line()
    if line is None:
        return None
    lines: list[str] = []
    if line.strip() == _BLOCK:
        while (line := read_line()) is not None and line.strip() != _BLOCK:
            lines.append(line)
        return "\n".join(lines)
    while line is not None and line.endswith("\\"):
        lines.append(line[:-1])
        line = read_line()
    return "\n".join([*lines, *([line] if line is not None else [])])


def _answer(
    client: Client, model: str, said: list[tuple[str, str]], options: GenerateOptions, *, session: Session, stats: bool
) -> str:
    watch = Watch()
    with client.generate(model, said, **options) as generation:
        try:
            if session.as_json:
                generation.read()
                print_json_line(_document(generation))
            else:
                show(generation, watch)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            _tell("interrupted")
        if stats:
            _tell(watch.report(generation))
        return generation.text


def _document(generation: BlockingGeneration) -> dict[str, object]:
    usage = generation.usage
    return {
        "role": "assistant",
        "content": generation.text,
        "finish_reason": generation.finish_reason,
        "usage": None if usage is None else asdict(usage),
    }


def _line_reader(*, at_terminal: bool) -> Callable[[], str | None]:
    if at_terminal:
        with suppress(ImportError):
            import_module("readline")  # Gives input() editing and history.
    prompts = iter(["> "])

    def read_line() -> str | None:
        try:
            return input(next(prompts, "… ") if at_terminal else "")
        except (EOFError, KeyboardInterrupt) as end:
            if at_terminal:
                print()  # What follows begins on a line of its own.
            if isinstance(end, KeyboardInterrupt):
                raise
            return None
        except UnicodeDecodeError:
            raise ValidationError("standard input is not UTF-8", field="prompt") from None

    return read_line


def _tell(text: str) -> None:
    messages().print(Text(text, style="quiet"))
