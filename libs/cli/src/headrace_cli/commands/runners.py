"""`headrace runners`: who computes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from headrace_cli.commands import runner_tokens
from headrace_cli.commands.usage import Since
from headrace_cli.documents import print_json, print_json_line
from headrace_cli.moments import moment_of
from headrace_cli.presentation import enum_text
from headrace_cli.runner_pages import runner_line, runner_page
from headrace_cli.session import Session, calls_mesh
from headrace_cli.terminal import elapsed, output
from headrace_cli.usage_pages import runner_event_page

if TYPE_CHECKING:
    from headrace_client import Client
    from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2

app = typer.Typer(help="The runners behind a gateway.", no_args_is_help=True)
app.add_typer(runner_tokens.app, name="token")
_DRAIN_TIMEOUT_S = 300.0
_POLL_S = 0.1


@app.command("list")
@calls_mesh
def list_runners(session: Session) -> None:
    """List the runners: how they are, what their backends can do, and the models that they have in memory."""
    with session.client() as client:
        answer = client.runners.list()
    if session.as_json:
        print_json(answer)
        return
    console = output()
    if answer.runners:
        console.print(runner_page(answer.runners, columns=console.width))
    else:
        console.print(Text("no runner is connected to this gateway"))
    console.print(Text(f"as seen by gateway {answer.gateway_id}", style="quiet"))


@app.command("watch")
@calls_mesh
def watch(session: Session) -> None:
    """Show the runners and each change, until Ctrl-C (exit status 0) or until --timeout is over.

    A table that stays current on a terminal, a line for each change elsewhere. With --json each line is a document.
    """
    from headrace_client.errors import DeadlineError

    try:
        with session.client() as client:
            changes = client.runners.watch(timeout_s=session.timeout_s)
            if session.as_json:
                for change in changes:
                    print_json_line(change)
            elif output().is_terminal:
                _show_live(changes)
            else:
                for change in changes:
                    output().print(runner_line(change.runner))
    except (KeyboardInterrupt, DeadlineError):
        raise typer.Exit(0) from None


@app.command("drain")
@calls_mesh
def drain(
    session: Session,
    runner: Annotated[str, typer.Argument(metavar="RUNNER", help="The runner's id, or its name.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has left.")] = False,
) -> None:
    """Ask a runner to take no new calls, finish what it has and leave. For operators."""
    with session.client() as client:
        runner_id = _runner_id(client, runner)
        drained = client.runners.drain(runner_id)
        if wait:
            with elapsed(f"draining {runner}"):
                drained = _wait_until_gone(client, drained, session.timeout_or(_DRAIN_TIMEOUT_S))
    if session.as_json:
        print_json(drained)
        return
    name = drained.name or drained.id
    output().print(Text.assemble(("✓ ", "good"), (name, "name"), f" is {enum_text(drained, 'state')}"))


@app.command("history")
@calls_mesh
def history(
    session: Session,
    runner: Annotated[str, typer.Argument(metavar="[RUNNER]", help="A runner's id, or its name. Default: all.")] = "",
    since: Since = "7d",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
) -> None:
    """Show what happened to runners, the newest first: connected, ejected, recovered, lost. For operators."""
    with session.client() as client:
        start = moment_of(since, now=datetime.now(UTC)) if since else None
        events = list(islice(client.usage.runner_events(runner, start=start), limit))
    if session.as_json:
        print_json(events)
    elif events:
        output().print(runner_event_page(events))
    else:
        output().print(Text(f"nothing is known of a runner '{runner}' in this time" if runner else "nothing happened"))


def _show_live(changes: Iterable[mesh_pb2.WatchRunnersResponse]) -> None:
    from rich.live import Live

    runners: dict[str, mesh_pb2.Runner] = {}
    console = output()
    with Live(Text("no runner is connected to this gateway yet"), console=console, auto_refresh=False) as live:
        for change in changes:
            new = change.runner
            # One that has gone is shown until its successor is there.
            runners = {
                key: runner
                for key, runner in runners.items()
                if runner.name != new.name or enum_text(runner, "state") != "gone"
            }
            runners[new.id] = new
            shown = [runners[key] for key in sorted(runners)]
            live.update(runner_page(shown, columns=console.width), refresh=True)


def _runner_id(client: Client, wanted: str) -> str:
    """The id for an id or a name; an unknown one stays as it is, for the mesh to refuse."""
    runners = client.runners.list().runners
    named = [runner.id for runner in runners if runner.name == wanted]
    if len(named) > 1 and wanted not in {runner.id for runner in runners}:
        raise typer.BadParameter(f"{len(named)} runners are called '{wanted}'; give an id: {', '.join(named)}")
    return named[0] if len(named) == 1 else wanted


def _wait_until_gone(client: Client, runner: mesh_pb2.Runner, timeout_s: float) -> mesh_pb2.Runner:
    """The runner as gone, once the gateway has no session with it any more.

    Raises:
        DeadlineError: it doesn't leave in time; it goes on draining.
    """
    from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2
    from headrace_client.errors import DeadlineError

    give_up_at = time.monotonic() + timeout_s
    while any(other.id == runner.id for other in client.runners.list().runners):
        if time.monotonic() >= give_up_at:
            raise DeadlineError(f"runner {runner.name or runner.id} has not left after {timeout_s:g} s")
        time.sleep(_POLL_S)
    return mesh_pb2.Runner(id=runner.id, name=runner.name, state=mesh_pb2.RUNNER_STATE_GONE)
