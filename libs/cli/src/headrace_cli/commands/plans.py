"""`headrace quota plans`: list, show, set, delete. For operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.limit_pages import limit_page
from headrace_cli.presentation import printable, table, time_text, words
from headrace_cli.session import Session, calls_mesh
from headrace_cli.terminal import output

if TYPE_CHECKING:
    from headrace_client.contracts.headrace.quota.v1 import quotas_pb2

app = typer.Typer(help="Named sets of limits; a tenant's tier names its plan. For operators.", no_args_is_help=True)
PlanName = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's name.")]


def limit_texts(given: list[str]) -> list[str]:
    """Refuses what is no limit, before anything is called."""
    from headrace_client.errors import ValidationError
    from headrace_client.limit_texts import limit_of

    for text in given:
        try:
            limit_of(text)
        except ValidationError as error:
            raise typer.BadParameter(error.message) from None
    return given


@app.command("list")
@calls_mesh
def list_plans(session: Session) -> None:
    """List all plans."""
    with session.client() as client:
        plans = client.quotas.plans()
    if session.as_json:
        print_json(plans)
        return
    shown = table("plan", "name", ">limits", "streams", "changed (UTC)")
    for plan in plans:
        shown.add_row(
            words(plan.name, "name"),
            words(plan.display_name),
            str(len(plan.limits)),
            "by second" if plan.aggregate_streams else "by call",
            time_text(plan, "update_time"),
        )
    output().print(shown)


@app.command("show")
@calls_mesh
def show(session: Session, plan: PlanName) -> None:
    """Show a plan with its limits; that of one's own tenant needs no admin key."""
    with session.client() as client:
        _answer(session, client.quotas.plan(plan))


@app.command("set")
@calls_mesh
def set_plan(
    session: Session,
    plan: PlanName,
    limits: Annotated[
        list[str],
        typer.Argument(
            metavar="LIMIT...", callback=limit_texts, help="As requests=1000/day; see `headrace quota set --help`."
        ),
    ] = [],  # noqa: B006 - typer's way; read only
    display_name: Annotated[str, typer.Option("--display-name", help="Name for people.")] = "",
    aggregate_streams: Annotated[
        bool, typer.Option("--aggregate-streams", help="Usage of packed streams by model and second, not by call.")
    ] = False,
) -> None:
    """Make a plan or replace all of it, for all its tenants at every gateway within seconds."""
    with session.client() as client:
        _answer(
            session,
            client.quotas.set_plan(plan, limits, display_name=display_name, aggregate_streams=aggregate_streams),
        )


@app.command("delete")
@calls_mesh
def delete(session: Session, plan: PlanName) -> None:
    """Take a plan away that no tenant is on."""
    with session.client() as client:
        client.quotas.delete_plan(plan)
    if session.as_json:
        print_json({"deleted": plan})
        return
    output().print(Text.assemble(("✓ ", "good"), (printable(plan), "name"), " is gone"))


def _answer(session: Session, plan: quotas_pb2.Plan) -> None:
    if session.as_json:
        print_json(plan)
        return
    output().print(Text.assemble((printable(plan.name), "name"), f"  {printable(plan.display_name)}"))
    if plan.limits:
        output().print(limit_page(plan.limits, (), plan.name))
    else:
        output().print(Text("no limits"))
