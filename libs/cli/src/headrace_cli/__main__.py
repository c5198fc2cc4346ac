"""Entry point of the `headrace` command: runs it, and turns failures into words and exit codes."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType


def main() -> NoReturn:
    """Run the command. Wrong usage ends it with 2, an interrupt with 130."""
    with _interrupts_end_it():
        import typer

        from headrace_cli.app import app

    for name in ("stdout", "stderr"):
        stream: object = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without UTF-8 gets a question mark for what it can't show.
            stream.reconfigure(errors="replace")
        elif stream is None:
            # Whoever started the command closed it, and doesn't want to hear anything.
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - stays open as long as the process
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - as above
    as_json = "--json" in sys.argv
    try:
        # Ends the process by itself, unless failures are to be JSON.
        sys.exit(app(standalone_mode=not as_json))
    except BrokenPipeError:
        _leave_quietly()
    except Exception as error:
        if "HEADRACE_DEBUG" in os.environ and not isinstance(error, typer.TyperException):
            raise
        # Brings gRPC along, which a command that fails has mostly loaded already.
        from headrace_cli.failures import explain, failure_of

        sys.exit(explain(failure_of(error), as_json=as_json))


@contextmanager
def _interrupts_end_it() -> Generator[None]:
    """While nothing can be cleaned up yet, Ctrl-C ends the process as it ends any, without a traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, _interrupt if before is signal.default_int_handler else before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C, wherever the command is: also between making a call and handing it to the client's thread."""
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    signal.default_int_handler(number, frame)


def _leave_quietly() -> NoReturn:
    """The reader of our output (`| head`) has gone; the rest has nowhere to go."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    sys.exit(1)


if __name__ == "__main__":
    main()
