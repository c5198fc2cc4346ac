"""The `headrace` command with its groups."""

from __future__ import annotations

from importlib.metadata import version as installed_version

import typer

from headrace_cli.commands import infer, keys, models, runners, tenants, up
from headrace_cli.commands.session import AsJson, print_json
from headrace_cli.terminal import output

_EPILOG = (
    "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no mesh answers. "
    "HEADRACE_ENDPOINT and HEADRACE_API_KEY stand in for --endpoint and --api-key."
)

app = typer.Typer(
    help="Headrace: one front door for every model of every tenant.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(up.up)
app.command("infer")(infer.infer)
app.add_typer(models.app, name="models")
app.add_typer(runners.app, name="runners")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")


@app.command("version")
def version(as_json: AsJson = False) -> None:
    """Show the version of this command."""
    number = installed_version("headrace")
    if as_json:
        print_json({"version": number})
    else:
        output().print(number, markup=False)
