"""Entry point of the `headrace` command: runs it, and turns failures into words and exit codes."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

from rich.text import Text

from headrace_cli.app import app
from headrace_cli.connection import UnreachableError
from headrace_cli.terminal import messages
from headrace_common.errors import HeadraceError

EXIT_FAILED = 1
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command; wrong usage ends it with 2 by itself."""
    try:
        app()
    except HeadraceError as error:
        _explain(
            error.message,
            code=error.code,
            reason=error.reason,
            remedy=error.entry.remedy,
            retryable=error.retryable,
        )
        sys.exit(EXIT_FAILED)
    except UnreachableError as error:
        _explain(
            str(error),
            code="UNREACHABLE",
            reason="UNREACHABLE",
            remedy="Start a mesh with `headrace up`, or name another one with --endpoint.",
            retryable=True,
        )
        sys.exit(EXIT_UNREACHABLE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; the rest has nowhere to go.
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    raise AssertionError("the command ends by itself")


def _explain(message: str, *, code: str, reason: str, remedy: str, retryable: bool) -> None:
    console = messages()
    if "--json" in sys.argv:
        failure = {
            "code": code,
            "reason": reason,
            "message": message,
            "remedy": remedy,
            "retryable": retryable,
        }
        console.print(json.dumps({"error": failure}), markup=False)
        return
    console.print(Text.assemble(("✗ ", "bad"), message, (f"  [{code}]", "quiet")))
    if remedy:
        console.print(Text("  " + remedy, style="quiet"))


if __name__ == "__main__":
    main()
