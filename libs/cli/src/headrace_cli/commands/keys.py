"""`headrace keys`: create, list, revoke."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.presentation import enum_text, table, time_text, words
from headrace_cli.session import Session, calls_mesh, checked_number
from headrace_cli.terminal import output

app = typer.Typer(help="API keys. Needs the role admin.", no_args_is_help=True)
_DAYS_MAX = 36_500
Tenant = Annotated[str, typer.Option("--tenant", help="The tenant. Default: the caller's own.")]


class RoleName(StrEnum):
    """Roles by the names that people type; each includes the ones before it."""

    VIEWER = "viewer"
    USER = "user"
    MODEL_ADMIN = "model_admin"
    ADMIN = "admin"


@app.command("create")
@calls_mesh
def create(
    session: Session,
    tenant: Tenant = "",
    role: Annotated[RoleName, typer.Option("--role", help="What the key may do.")] = RoleName.USER,
    display_name: Annotated[str, typer.Option("--display-name", help="Name for people.")] = "",
    expires_in_days: Annotated[
        float | None,
        typer.Option("--expires-in-days", max=_DAYS_MAX, callback=checked_number, help="Default: never."),
    ] = None,
) -> None:
    """Make a key. It is shown once and can't be shown again."""
    ends = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days is not None else None
    with session.client() as client:
        answer = client.keys.create(tenant=tenant, display_name=display_name, roles=[role.value], expire_time=ends)
    if session.as_json:
        print_json(answer)
        return
    console = output()
    made = answer.api_key
    console.print(Text(answer.key, style="value"))
    console.print(Text(f"id {made.id}, tenant {made.tenant_id}; keep the key, it can't be shown again", style="quiet"))


@app.command("list")
@calls_mesh
def list_keys(session: Session, tenant: Tenant = "") -> None:
    """List a tenant's keys, newest first, without the keys themselves."""
    with session.client() as client:
        keys = client.keys.list(tenant)
    if session.as_json:
        print_json(keys)
        return
    shown = table("key", "id", "name", "roles", "created (UTC)", "ends (UTC)")
    for key in keys:
        shown.add_row(
            words(key.prefix + "…", "name"),
            key.id,
            words(key.display_name),
            enum_text(key, "roles"),
            time_text(key, "create_time"),
            "revoked" if key.HasField("revoke_time") else time_text(key, "expire_time"),
        )
    output().print(shown if keys else Text("no keys"))


@app.command("revoke")
@calls_mesh
def revoke(
    session: Session,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, not the key itself.")],
) -> None:
    """End a key for good, at every gateway within seconds."""
    with session.client() as client:
        key = client.keys.revoke(key_id)
    if session.as_json:
        print_json(key)
        return
    output().print(Text.assemble(("✓ ", "good"), (key.prefix + "…", "name"), " is revoked"))
