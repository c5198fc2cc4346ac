"""A conversation with a language model, from a terminal or a pipe."""

from __future__ import annotations

import io
import secrets
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from typing import cast

from rich.text import Text

from headrace_cli.documents import print_json_line
from headrace_cli.failures import explain
from headrace_cli.generation_call import Watch, show
from headrace_cli.model_names import reference
from headrace_cli.sampling_options import Sampling
from headrace_cli.session import Session
from headrace_cli.standard_input import decoded
from headrace_cli.terminal import messages
from headrace_client import BlockingGeneration, GenerateOptions
from headrace_client.errors import CallCancelled, HeadraceError, ValidationError

_BLOCK = '"""'
_HELP = f"/exit ends, /clear begins anew; {_BLOCK} before and after several lines; Ctrl-C ends an answer."


def converse(session: Session, model: str, *, system: str | None, options: Sampling, stats: bool) -> None:
    """Answer message after message until the input ends. On a terminal a failed or interrupted answer doesn't end it.

    Raises:
        BadParameter: the text names no model.
        HeadraceError: a message could not be read, or was not answered; elsewhere than on a terminal.
        KeyboardInterrupt: Ctrl-C; on a terminal where nothing is typed or answered, and then for the second time.
    """
    named = reference(model)
    # Its messages have their beginning in common: whoever has computed it shall go on.
    common = {
        "session": secrets.token_hex(8),
        **options,
        "version": named.model_version,
        "timeout_s": session.timeout_s,
    }
    asked = cast("GenerateOptions", common)
    opening = [("system", system)] if system is not None else []
    said = list(opening)
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal:
        _tell(f"{named.name}. {_HELP}")
    with session.client() as client:
        for message in _messages(as_json=session.as_json, at_terminal=at_terminal):
            command = message.strip()
            if command == "/exit":
                return
            elif command == "/clear":
                said = list(opening)
                _tell("cleared")
            elif command == "/help":
                _tell(_HELP)
            elif command:
                turn = ("user", message)
                try:
                    generation = client.generate(named.name, [*said, turn], **asked)
                    answer = _answer(generation, as_json=session.as_json, stats=stats, at_terminal=at_terminal)
                except HeadraceError as error:
                    if not at_terminal:
                        raise
                    explain(error, as_json=session.as_json)
                else:
                    said += [turn, ("assistant", answer)] if answer is not None else []


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


def _messages(*, as_json: bool, at_terminal: bool) -> Iterator[str]:
    """What is said until the input ends. On a terminal Ctrl-C drops what has been typed; twice it ends it."""
    if at_terminal:
        with suppress(ImportError):
            import_module("readline")  # Gives input() editing and history.
        if isinstance(stream := cast("object", sys.stdin), io.TextIOWrapper):
            stream.reconfigure(errors="strict")
    was_interrupted = False
    while True:
        try:
            message = read_message(_typed_lines() if at_terminal else _piped_line)
        except KeyboardInterrupt:
            if not at_terminal or was_interrupted:
                raise
            was_interrupted = True
            _tell("Ctrl-C again, Ctrl-D or /exit ends the conversation.")
        except ValidationError as error:
            if not at_terminal:
                raise
            was_interrupted = False
            explain(error, as_json=as_json)
        else:
            if message is None:
                return
            was_interrupted = False
            yield message


def _answer(generation: BlockingGeneration, *, as_json: bool, stats: bool, at_terminal: bool) -> str | None:
    """Print what comes; gives all of it, also where Ctrl-C ended it, or None where it had not begun."""
    watch = Watch()
    with generation, _ended_by_interrupts(generation, at_terminal=at_terminal) as interrupted:
        try:
            if as_json:
                generation.read()
            else:
                show(generation, watch)
        except CallCancelled:
            if not interrupted:
                raise
            if not generation.text:
                _tell("interrupted before the answer began; your message is forgotten")
                return None
            _tell("interrupted")
        if as_json:
            print_json_line(_document(generation))
        if stats:
            _tell(watch.report(generation))
        return generation.text


@contextmanager
def _ended_by_interrupts(generation: BlockingGeneration, *, at_terminal: bool) -> Generator[list[int]]:
    """On a terminal Ctrl-C ends the generation and nothing else, however often and whenever it comes.

    Gives the signals that came.
    """
    came: list[int] = []
    if not at_terminal:
        yield came
        return

    def interrupt(number: int, _: object) -> None:
        came.append(number)
        generation.close()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def _document(generation: BlockingGeneration) -> dict[str, object]:
    usage = generation.usage
    return {
        "role": "assistant",
        "content": generation.text,
        "finish_reason": generation.finish_reason,
        "usage": None if usage is None else asdict(usage),
    }


def _typed_lines() -> Callable[[], str | None]:
    """Reads lines for one message, after a prompt each."""
    prompts = iter(["> "])

    def read_line() -> str | None:
        try:
            return input(next(prompts, "… "))
        except (EOFError, KeyboardInterrupt) as end:
            print()  # What follows begins on a line of its own.
            if isinstance(end, KeyboardInterrupt):
                raise
            return None
        except UnicodeDecodeError:
            raise ValidationError("what was typed is not UTF-8", field="prompt") from None

    return read_line


def _piped_line() -> str | None:
    line = sys.stdin.buffer.readline()
    return decoded(line, "standard input").removesuffix("\r") if line else None


def _tell(text: str) -> None:
    messages().print(Text(text, style="quiet"))
