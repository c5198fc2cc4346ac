"""`headrace keys`: create, list, rotate, revoke."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.presentation import enum_text, table, time_text, words
from headrace_cli.session import Session, calls_mesh, checked_number
from headrace_cli.terminal import output

if TYPE_CHECKING:
    from headrace_client.contracts.headrace.quota.v1 import tenants_pb2

app = typer.Typer(help="API keys. Needs the role admin.", no_args_is_help=True)
_DAYS_MAX = 36_500
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, not the key itself.")]
Expiry = Annotated[
    float | None,
    typer.Option("--expires-in-days", max=_DAYS_MAX, callback=checked_number, help="Default: never."),
]
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
    expires_in_days: Expiry = None,
    allow: Annotated[
        list[str],
        typer.Option(
            "--allow",
            metavar="ACTIONS[:MODELS]",
            help="The only things that it may do with models, as infer:model-a,model-b or infer+read:team-*; "
            "may be repeated.",
        ),
    ] = [],  # noqa: B006 - typer's way; read only
) -> None:
    """Make a key. It is shown once and can't be shown again."""
    with session.client() as client:
        answer = client.keys.create(
            tenant=tenant,
            display_name=display_name,
            roles=[role.value],
            expire_time=_end(expires_in_days),
            allow=allow,
        )
    if session.as_json:
        print_json(answer)
        return
    _show(answer.key, answer.api_key)


@app.command("rotate")
@calls_mesh
def rotate(
    session: Session,
    key_id: KeyId,
    overlap_hours: Annotated[
        float,
        typer.Option(
            "--overlap-hours", min=0, max=720, callback=checked_number, help="How long the former key still works."
        ),
    ] = 24,
    expires_in_days: Expiry = None,
) -> None:
    """Make a key that may do the same as another one, which works for a while yet."""
    with session.client() as client:
        answer = client.keys.rotate(key_id, overlap=timedelta(hours=overlap_hours), expire_time=_end(expires_in_days))
    if session.as_json:
        print_json(answer)
        return
    _show(answer.key, answer.api_key)
    former = answer.former
    output().print(Text(f"{former.prefix}… works until {time_text(former, 'expire_time')} UTC", style="quiet"))


@app.command("list")
@calls_mesh
def list_keys(session: Session, tenant: Tenant = "") -> None:
    """List a tenant's keys, newest first, without the keys themselves."""
    with session.client() as client:
        keys = client.keys.list(tenant)
    if session.as_json:
        print_json(keys)
        return
    shown = table("key", "id", "name", "roles", "used (UTC)", "ends (UTC)")
    for key in keys:
        shown.add_row(
            words(key.prefix + "…", "name"),
            key.id,
            words(key.display_name),
            enum_text(key, "roles"),
            time_text(key, "last_use_time") or "never",
            "revoked" if key.HasField("revoke_time") else time_text(key, "expire_time"),
        )
    output().print(shown if keys else Text("no keys"))


@app.command("revoke")
@calls_mesh
def revoke(
    session: Session,
    key_id: KeyId,
) -> None:
    """End a key for good, at every gateway within seconds."""
    with session.client() as client:
        key = client.keys.revoke(key_id)
    if session.as_json:
        print_json(key)
        return
    output().print(Text.assemble(("✓ ", "good"), (key.prefix + "…", "name"), " is revoked"))


def _end(expires_in_days: float | None) -> datetime | None:
    return datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days is not None else None


def _show(key: str, made: tenants_pb2.ApiKey) -> None:
    console = output()
    console.print(Text(key, style="value"))
    console.print(Text(f"id {made.id}, tenant {made.tenant_id}; keep the key, it can't be shown again", style="quiet"))
