"""Writes the documentation page of the error catalogue: `python -m headrace_common.errors_page docs/errors.md`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from headrace_common.catalogue import ALL, CatalogueEntry

_HEAD = """\
# Errors

<!-- Generated from the catalogue by `make generate`; edit libs/common/src/headrace_common/catalogue instead. -->

Every failure that a caller can meet has a stable code here. On gRPC it is a `google.rpc.Status` whose details hold
`ErrorInfo` (`reason` as below, `domain` `headrace`, `metadata` with `code` and the context values), and where they
apply `RetryInfo`, `QuotaFailure` and `BadRequest`. A failure that nobody foresaw is `INTERNAL_ERROR` with a correlation
id and no detail: the id finds the failure in the log. What belongs to another tenant is answered exactly like what does
not exist.

"Retry" tells the policy that our own clients follow: first pause, longest pause, tries in all. A retry delay that the
server sends wins over it.
"""

_FAMILIES = {
    "MODEL": "Models and versions",
    "TENSOR": "Tensors",
    "QUOTA": "Quota",
    "AUTH": "Credentials and roles",
    "TENANT": "Tenants and keys",
    "DEVICE": "Devices",
    "INIT": "Starting",
    "TIMEOUT": "Time",
    "RUNNER": "Runners",
    "ROUTE": "Routing",
    "STORAGE": "Storage",
    "CONVERSION": "Conversions",
    "JOB": "Jobs",
    "CONFIG": "Configuration",
    "VALIDATION": "Requests",
    "INTERNAL": "Everything else",
}


def page(entries: Iterable[CatalogueEntry] = ALL) -> str:
    """The page as Markdown: one table for each family."""
    parts = [_HEAD]
    for family, members in groupby(entries, key=lambda entry: entry.family):
        rows = "\n".join(_row(entry) for entry in members)
        parts.append(
            f"## {family}: {_FAMILIES[family]}\n\n"
            "| Code | Reason | gRPC | HTTP | Retry | Context | What happened | What to do |\n"
            "|---|---|---|---|---|---|---|---|\n"
            f"{rows}\n"
        )
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page, or with `--check` tells by the exit code whether it is current."""
    parser = argparse.ArgumentParser(prog="errors_page", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page isn't current")
    options = parser.parse_args(argv)
    path: Path = options.path
    if not options.check:
        path.write_text(page())
        return 0
    if path.is_file() and path.read_text() == page():
        return 0
    print(f"{path} is not current: run `make generate`", file=sys.stderr)  # noqa: T201 - a command's message
    return 1


def _row(entry: CatalogueEntry) -> str:
    retry = "no"
    if entry.retry is not None:
        retry = f"{entry.retry.initial_s:g} s, {entry.retry.max_s:g} s, {entry.retry.attempts_max}"
    context = ", ".join(f"`{name}`" for name in entry.context)
    cells = (f"`{entry.code}`", f"`{entry.reason}`", entry.grpc, str(entry.http), retry, context)
    return f"| {' | '.join((*cells, entry.summary, entry.remedy))} |"


if __name__ == "__main__":
    sys.exit(main())
