"""`headrace usage`: list, summary and export of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.ledger_files import LedgerFormat, check_format, format_of, write_rows
from headrace_cli.moments import moment_of
from headrace_cli.session import Session, calls_mesh
from headrace_cli.terminal import elapsed, output
from headrace_cli.usage_pages import request_page, sum_page

app = typer.Typer(
    help="What calls used. Everybody reads what is their own tenant's, operators all.", no_args_is_help=True
)
_EXPORT_TIMEOUT_S = 3_600.0


class StatusName(StrEnum):
    """How calls end, by the names that people type."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


class SpanName(StrEnum):
    """Spans of sums by the names that people type."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


def _moment(text: str) -> str:
    if text:
        try:
            moment_of(text, now=datetime.now(UTC))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return text


AnyTenant = Annotated[str, typer.Argument(metavar="[TENANT]", help="The tenant's id. Default: the caller's own.")]
Since = Annotated[
    str, typer.Option("--since", metavar="TIME", callback=_moment, help="2026-01-31, 2026-01-31T12:00 (UTC), 24h, 7d.")
]
Until = Annotated[str, typer.Option("--until", metavar="TIME", callback=_moment, help="Before then. Default: now.")]
Model = Annotated[str, typer.Option("--model", help="Only of this model.")]


@app.command("list")
@calls_mesh
def list_requests(
    session: Session,
    tenant: AnyTenant = "",
    since: Since = "24h",
    until: Until = "",
    model: Model = "",
    status: Annotated[StatusName | None, typer.Option("--status", help="Only calls that ended so.")] = None,
    request_id: Annotated[str, typer.Option("--request-id", help="Only of this request id.")] = "",
    subject: Annotated[str, typer.Option("--subject", metavar="key:ID", help="Only of this key or token.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
) -> None:
    """List calls, the newest first."""
    with session.client() as client:
        found = client.usage.requests(
            tenant=tenant,
            start=_time(since),
            end=_time(until),
            model=model,
            status=status or "",
            request_id=request_id,
            subject=subject,
        )
        rows = list(islice(found, limit))
    if session.as_json:
        print_json(rows)
    elif rows:
        output().print(request_page(rows))
    else:
        output().print(Text("no calls"))


@app.command("summary")
@calls_mesh
def summary(
    session: Session,
    tenant: AnyTenant = "",
    since: Since = "",
    until: Until = "",
    model: Model = "",
    by: Annotated[SpanName, typer.Option("--by", help="Span of each sum, in UTC.")] = SpanName.DAY,
) -> None:
    """Sum calls up by model and time. Default: this month by day."""
    with session.client() as client:
        sums = client.usage.summary(tenant=tenant, start=_time(since), end=_time(until), model=model, by=by)
    if session.as_json:
        print_json(sums)
    elif sums:
        output().print(sum_page(sums))
    else:
        output().print(Text("no calls"))


@app.command("export")
@calls_mesh
def export(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; it appears only whole.")],
    kind: Annotated[
        LedgerFormat | None, typer.Option("--format", help="Default: parquet for FILE.parquet, else csv.")
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="The tenant's id. Default: the caller's own.")] = "",
    since: Since = "30d",
    until: Until = "",
) -> None:
    """Write all calls of a span of time into a file, the oldest first; 366 days at most."""
    chosen = format_of(file, kind)
    check_format(chosen)
    if not file.parent.is_dir():
        raise typer.BadParameter(f"the folder {file.parent} does not exist", param_hint="FILE")
    start, end = _time(since), _time(until) or datetime.now(UTC)
    if start is None:
        raise typer.BadParameter("give the beginning", param_hint="--since")
    with session.client() as client, elapsed("exporting"):
        timeout_s = session.timeout_or(_EXPORT_TIMEOUT_S)
        rows = client.usage.export(start, end, tenant=tenant, timeout_s=timeout_s)
        count = write_rows(rows, file, chosen)
    if session.as_json:
        print_json({"path": str(file), "format": chosen, "rows": count})
        return
    output().print(Text.assemble(("✓ ", "good"), f"{count:,} rows in ", (str(file), "name")))


def _time(text: str) -> datetime | None:
    return moment_of(text, now=datetime.now(UTC)) if text else None
