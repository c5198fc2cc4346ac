"""`headrace quota`: show, set, usage, reset and top of limits, and the plans."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from headrace_cli.commands import plans
from headrace_cli.documents import print_json, print_json_line
from headrace_cli.limit_pages import limit_page, usage_line, usage_page
from headrace_cli.presentation import printable, words
from headrace_cli.session import Session, calls_mesh
from headrace_cli.terminal import output

if TYPE_CHECKING:
    from headrace_client import Client
    from headrace_client.contracts.headrace.quota.v1 import quotas_pb2

    Usages = list[tuple[str, quotas_pb2.LimitUsage]]

app = typer.Typer(
    help="Limits, plans, and what is used of them. Operators write, everybody reads what is their own tenant's.",
    no_args_is_help=True,
)
app.add_typer(plans.app, name="plans")
LimitTexts = Annotated[
    list[str],
    typer.Argument(
        metavar="LIMIT...",
        callback=plans.limit_texts,
        help="RESOURCE=AMOUNT/WINDOW, as requests=1000/day, tokens=500/s,burst=2000, requests=10/1m,sliding; "
        "concurrency=8 has no window, magika:requests=5/hour is for one model. Windows: hour, day, month (UTC), or "
        "for a rate a time.",
    ),
]
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]
AnyTenant = Annotated[str, typer.Argument(metavar="[TENANT]", help="The tenant's id. Default: the caller's own.")]


@app.command("show")
@calls_mesh
def show(session: Session, tenant: AnyTenant = "") -> None:
    """Show the limits that hold for a tenant: its own, and those of its plan."""
    with session.client() as client:
        found = client.quotas.limits(tenant)
    if session.as_json:
        print_json(found)
        return
    if found.limits:
        output().print(limit_page(found.limits, found.own_limits, found.plan))
    else:
        output().print(Text(f"no limits; the plan is {printable(found.plan)}"))


@app.command("set")
@calls_mesh
def set_limits(
    session: Session,
    tenant: TenantId,
    limits: LimitTexts = [],  # noqa: B006 - typer's way; read only
    clear: Annotated[bool, typer.Option("--clear", help="Take all its own limits away.")] = False,
) -> None:
    """Replace all of a tenant's own limits, at every gateway within seconds. They go before those of its plan."""
    if bool(limits) == clear:
        raise typer.BadParameter("give the limits, or --clear for none of its own")
    with session.client() as client:
        stored = client.quotas.set_limits(tenant, limits)
    if session.as_json:
        print_json(stored)
        return
    output().print(Text.assemble(("✓ ", "good"), (printable(tenant), "name"), f" has {len(stored)} limits of its own"))


@app.command("usage")
@calls_mesh
def usage(session: Session, tenant: AnyTenant = "") -> None:
    """Show how each limit of a tenant stands now."""
    with session.client() as client:
        found = client.quotas.usage(tenant)
    if session.as_json:
        print_json(found)
    elif found:
        output().print(usage_page([("", use) for use in found], now=datetime.now(UTC)))
    else:
        output().print(Text("no limits"))


@app.command("reset")
@calls_mesh
def reset(
    session: Session,
    tenant: TenantId,
    model: Annotated[str, typer.Option("--model", help="Only counters of this model.")] = "",
    resource: Annotated[str, typer.Option("--resource", help="Only requests, tokens, input_bytes or device_ms.")] = "",
    window: Annotated[str, typer.Option("--window", help="Only hour, day or month.")] = "",
) -> None:
    """Set what is used of a tenant's calendar quotas to nothing. What was used stays in the ledger."""
    with session.client() as client:
        counters = client.quotas.reset(tenant, model=model, resource=resource, window=window)
    if session.as_json:
        print_json({"counters": counters})
        return
    output().print(Text.assemble(("✓ ", "good"), f"{counters} counters of ", (printable(tenant), "name"), " are at 0"))


@app.command("top")
@calls_mesh
def top(
    session: Session,
    tenant: AnyTenant = "",
    everybody: Annotated[
        bool, typer.Option("--all", help="The tenants that are nearest to a calendar quota, for operators.")
    ] = False,
    interval_s: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between looks.")] = 1.0,
    looks: Annotated[int, typer.Option("--looks", min=0, help="End after so many looks. Default: never.")] = 0,
) -> None:
    """Watch usage against limits, until Ctrl-C (exit status 0).

    A table that stays current on a terminal, a line for each limit and look elsewhere. With --json each line is a
    document.
    """
    if everybody and tenant:
        raise typer.BadParameter("give a tenant or --all")
    console = output()
    with session.client() as client:
        try:
            if console.is_terminal and not session.as_json:
                _show_live(client, tenant, everybody=everybody, interval_s=interval_s, looks=looks)
                return
            for found in _looks(client, tenant, everybody=everybody, interval_s=interval_s, looks=looks):
                for name, use in found:
                    if session.as_json:
                        print_json_line({"tenant": name, "usage": use} if everybody else use)
                    else:
                        console.print(words(usage_line(name, use)))
        except KeyboardInterrupt:
            return


def _show_live(client: Client, tenant: str, *, everybody: bool, interval_s: float, looks: int) -> None:
    from rich.live import Live

    with Live(Text("…"), console=output(), auto_refresh=False) as live:
        for found in _looks(client, tenant, everybody=everybody, interval_s=interval_s, looks=looks):
            shown = (
                usage_page(found, now=datetime.now(UTC)) if found else Text("nothing is used, or there are no limits")
            )
            live.update(shown, refresh=True)


def _looks(client: Client, tenant: str, *, everybody: bool, interval_s: float, looks: int) -> Iterable[Usages]:
    """What each look finds; 0 looks mean no end."""
    done = 0
    while True:
        if everybody:
            yield [(near.tenant_id, near.usage) for near in client.quotas.statistics().nearest]
        else:
            yield [("", use) for use in client.quotas.usage(tenant)]
        done += 1
        if done == looks:
            return
        time.sleep(interval_s)
