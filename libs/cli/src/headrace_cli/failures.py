"""Failures as people and programs see them: words or JSON on standard error, and the exit status."""

from __future__ import annotations

import json
import sys

import typer
from grpc import StatusCode
from rich.text import Text

from headrace_cli.presentation import printable
from headrace_cli.remedies import remedy
from headrace_cli.terminal import messages
from headrace_client.errors import HeadraceError
from headrace_client.failures import Failure

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3

USAGE = Failure("USAGE", "USAGE", StatusCode.INVALID_ARGUMENT)
LOCAL_FILE = Failure("LOCAL_FILE", "LOCAL_FILE", StatusCode.FAILED_PRECONDITION)
RESTART = Failure("RESTART", "RESTART", StatusCode.FAILED_PRECONDITION)
AUDIT_BROKEN = Failure("AUDIT_BROKEN", "AUDIT_BROKEN", StatusCode.DATA_LOSS)
DEFECT = Failure("DEFECT", "DEFECT", StatusCode.INTERNAL)
"""Kinds that no mesh sends: they happen here."""

_STATUS = {"USAGE": EXIT_USAGE, "UNREACHABLE": EXIT_UNREACHABLE}


def failure_of(error: Exception) -> HeadraceError:
    """Any exception as a failure with words for people."""
    if isinstance(error, HeadraceError):
        return error
    if isinstance(error, typer.TyperException):
        return HeadraceError(error.format_message(), USAGE)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return HeadraceError(f"{where}{error.strerror or error}", LOCAL_FILE)
    return HeadraceError(f"the command failed unexpectedly: {type(error).__name__}: {error}", DEFECT)


def explain(error: HeadraceError, *, as_json: bool) -> int:
    """Say what happened and what to do; gives the exit status."""
    if as_json:
        document = {
            "code": error.code,
            "reason": error.reason,
            "message": error.message,
            "remedy": remedy(error.reason),
            "retryable": error.retryable,
            "retry_after_s": error.retry_after_s,
            "field": error.field,
            "context": error.context,
            "request_id": error.request_id,
        }
        sys.stderr.write(json.dumps({"error": document}, ensure_ascii=False) + "\n")
    else:
        console = messages()
        console.print(Text.assemble(("✗ ", "bad"), printable(error.message), (f"  [{error.code}]", "quiet")))
        if hint := _hint(error):
            console.print(Text("  " + hint, style="quiet"))
    return _STATUS.get(error.reason, EXIT_FAILED)


def _hint(error: HeadraceError) -> str:
    parts = [remedy(error.reason)]
    if error.retry_after_s:
        parts.append(f"Try again in {error.retry_after_s:.3g} s.")
    return " ".join(part for part in parts if part)
