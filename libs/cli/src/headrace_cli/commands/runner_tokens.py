"""`headrace runners token`: what runners join with, in the file that gateways look at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.presentation import table, words
from headrace_cli.terminal import output

if TYPE_CHECKING:
    from headrace_common.join_tokens import JoinToken

app = typer.Typer(help="Tokens that runners join with.", no_args_is_help=True)
File = Annotated[
    Path,
    typer.Option(
        "--file",
        metavar="FILE",
        help="The gateways' HEADRACE_GATEWAY_JOIN_TOKENS_FILE.",
        dir_okay=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]


@app.command("create")
def create(
    file: File,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", dir_okay=False, help="Write the token there (0600) and don't show it."),
    ] = None,
    tenant: Annotated[
        str,
        typer.Option("--tenant", help="Whose runners it is for; '*' is for all. Default: shared runners."),
    ] = "",
    runner: Annotated[str, typer.Option("--runner", help="The only name that the runner may have.")] = "",
    days: Annotated[
        int | None, typer.Option("--expires-in-days", min=1, max=3_650, help="When it ends. Default: never.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. Gateways take it within a second; the token itself is in no file of theirs."""
    _require_services()
    from headrace_common.join_tokens import new_join_token
    from headrace_common.secrets import write_secret_file

    now = datetime.now(UTC)
    ends_at = now + timedelta(days=days) if days is not None else None
    try:
        token, entry = new_join_token(tenant=tenant, runner=runner, now=now, expires_at=ends_at)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if out is not None and out.exists():
        raise typer.BadParameter(f"{out} exists", param_hint="--out")
    _change(file, lambda entries: [*entries, entry], make=True)
    if out is not None:
        write_secret_file(out, token + "\n")
    if as_json:
        print_json({**_document(entry), **({"token": token} if out is None else {"file": str(out)})})
    elif out is not None:
        output().print(Text.assemble(("✓ ", "good"), "token ", (entry.id, "name"), f" is in {out}"))
    else:
        output().print(Text(token))


@app.command("list")
def list_tokens(file: File, as_json: AsJson = False) -> None:
    """List the tokens of a file: whose they are, and when they end."""
    _require_services()
    entries = sorted(_read(file), key=lambda entry: entry.id)
    if as_json:
        print_json([_document(entry) for entry in entries])
        return
    if not entries:
        output().print(Text("there is no token"))
        return
    page = table("token", "tenant", "runner", "made", "ends")
    for entry in entries:
        ended = entry.expires_at is not None and entry.expires_at <= datetime.now(UTC)
        page.add_row(
            Text(entry.id, style="name"),
            words(entry.tenant or "shared"),
            words(entry.runner or "any"),
            _day(entry.created_at),
            Text(_day(entry.expires_at) or "never", style="bad" if ended else ""),
        )
    output().print(page)


@app.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as the list shows it.")],
    file: File,
    as_json: AsJson = False,
) -> None:
    """Take a token out. Within seconds its runners get no new calls, and their sessions end."""
    _require_services()

    def without(entries: list[JoinToken]) -> list[JoinToken]:
        left = [entry for entry in entries if entry.id != token]
        if len(left) == len(entries):
            raise typer.BadParameter(f"{file} has no token '{token}'", param_hint="ID")
        return left

    _change(file, without)
    if as_json:
        print_json({"id": token, "revoked": True})
    else:
        output().print(Text.assemble(("✓ ", "good"), "token ", (token, "name"), " is revoked"))


def _change(file: Path, change: Callable[[list[JoinToken]], list[JoinToken]], *, make: bool = False) -> None:
    """Writes the file as a whole, so that gateways never read half of it; two of these at once would lose one."""
    from headrace_common.join_tokens import render_join_tokens
    from headrace_common.secrets import write_secret_file

    entries = [] if make and not file.exists() else _read(file)
    write_secret_file(file, render_join_tokens(change(entries)))


def _read(file: Path) -> list[JoinToken]:
    from headrace_cli.failures import LOCAL_FILE
    from headrace_client.errors import HeadraceError
    from headrace_common.errors import ConfigError
    from headrace_common.join_tokens import read_join_tokens

    try:
        return list(read_join_tokens(file).values())
    except ConfigError as error:
        raise HeadraceError(error.message, LOCAL_FILE) from None


def _require_services() -> None:
    if find_spec("headrace_common") is None:
        raise typer.BadParameter("the services are not installed: pip install 'headrace[mesh]'", param_hint="token")


def _document(entry: JoinToken) -> dict[str, object]:
    return {
        "id": entry.id,
        "tenant": entry.tenant,
        "runner": entry.runner,
        "created_at": entry.created_at.isoformat() if entry.created_at else None,
        "expires_at": entry.expires_at.isoformat() if entry.expires_at else None,
    }


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment is not None else ""
