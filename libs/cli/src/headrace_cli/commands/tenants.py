"""`headrace tenants`: create, list, show, update, suspend, resume. For operators."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.presentation import enum_text, facts, table, time_text, words
from headrace_cli.session import Session, calls_mesh
from headrace_cli.terminal import output

if TYPE_CHECKING:
    from headrace_client.contracts.headrace.quota.v1 import tenants_pb2

app = typer.Typer(
    help="Tenants. Needs an admin key of the tenant `default`; that of a local mesh is in its "
    "state directory: --api-key @.headrace/secrets/admin.key",
    no_args_is_help=True,
)
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]


class IsolationName(StrEnum):
    """Isolations by the names that people type."""

    SHARED = "shared"
    DEDICATED = "dedicated"


def _pairs(given: list[str]) -> list[str]:
    for pair in given:
        if not pair.partition("=")[0] or "=" not in pair:
            raise typer.BadParameter("write it as KEY=VALUE")
    return given


Isolation = Annotated[
    IsolationName | None,
    typer.Option("--isolation", help="Shared runners, or only those with the label tenant=TENANT. Default: shared."),
]
Pairs = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        callback=_pairs,
        help="A pair of its metadata, as feature.http=off; may be repeated.",
    ),
]


@app.command("create")
@calls_mesh
def create(
    session: Session,
    tenant: TenantId,
    display_name: Annotated[str, typer.Option("--display-name", help="Name for people.")] = "",
    tier: Annotated[str, typer.Option("--tier", help="Service tier. Default: standard.")] = "",
    isolation: Isolation = None,
    pairs: Pairs = [],  # noqa: B006 - typer's way; read only
) -> None:
    """Register a tenant. Repeating it with the same values changes nothing."""
    with session.client() as client:
        _answer(
            session,
            client.tenants.create(
                tenant,
                display_name=display_name,
                tier=tier,
                metadata=_metadata(pairs),
                isolation=isolation or IsolationName.SHARED,
            ),
        )


@app.command("update")
@calls_mesh
def update(
    session: Session,
    tenant: TenantId,
    display_name: Annotated[str | None, typer.Option("--display-name", help="Name for people.")] = None,
    tier: Annotated[str | None, typer.Option("--tier", help="Service tier.")] = None,
    isolation: Isolation = None,
    pairs: Pairs = [],  # noqa: B006 - typer's way; read only
    unset: Annotated[
        list[str], typer.Option("--unset", metavar="KEY", help="Takes a pair of its metadata away; may be repeated.")
    ] = [],  # noqa: B006 - typer's way; read only
) -> None:
    """Change what is given and nothing else, at every gateway within seconds."""
    with session.client() as client:
        _answer(
            session,
            client.tenants.update(
                tenant,
                display_name=display_name,
                tier=tier,
                metadata={**dict.fromkeys(unset), **_metadata(pairs)},
                isolation=isolation,
            ),
        )


@app.command("list")
@calls_mesh
def list_tenants(session: Session) -> None:
    """List all tenants."""
    with session.client() as client:
        tenants = client.tenants.list()
    if session.as_json:
        print_json(tenants)
        return
    shown = table("tenant", "name", "status", "tier", "created (UTC)")
    for tenant in tenants:
        shown.add_row(
            words(tenant.id, "name"),
            words(tenant.display_name),
            enum_text(tenant, "status"),
            words(tenant.tier),
            time_text(tenant, "create_time"),
        )
    output().print(shown)


@app.command("show")
@calls_mesh
def show(
    session: Session,
    tenant: Annotated[str, typer.Argument(metavar="[TENANT]", help="The tenant's id. Default: the caller's own.")] = "",
) -> None:
    """Show a tenant; one's own needs no admin key."""
    with session.client() as client:
        found = client.tenants.get(tenant)
    if session.as_json:
        print_json(found)
        return
    shown = facts()
    shown.add_row("tenant", words(found.id, "name"))
    shown.add_row("name", words(found.display_name))
    shown.add_row("status", enum_text(found, "status"))
    shown.add_row("tier", words(found.tier))
    shown.add_row("isolation", enum_text(found, "isolation"))
    shown.add_row("created", time_text(found, "create_time") + " UTC")
    for name, value in sorted(found.metadata.items()):
        shown.add_row(words(name), words(value))
    output().print(shown)


@app.command("suspend")
@calls_mesh
def suspend(session: Session, tenant: TenantId) -> None:
    """Refuse all calls of a tenant, at every gateway within seconds."""
    with session.client() as client:
        _answer(session, client.tenants.suspend(tenant))


@app.command("resume")
@calls_mesh
def resume(session: Session, tenant: TenantId) -> None:
    """End a suspension."""
    with session.client() as client:
        _answer(session, client.tenants.resume(tenant))


def _metadata(pairs: list[str]) -> Mapping[str, str]:
    return dict(pair.split("=", 1) for pair in pairs)


def _answer(session: Session, tenant: tenants_pb2.Tenant) -> None:
    if session.as_json:
        print_json(tenant)
        return
    output().print(Text.assemble(("✓ ", "good"), (tenant.id, "name"), f" is {enum_text(tenant, 'status')}"))
