"""The `headrace` command with its groups."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace_cli.commands import (
    audit,
    certs,
    chat,
    embed,
    generate,
    infer,
    keys,
    models,
    quota,
    restart,
    runners,
    status,
    tenants,
    up,
    usage,
)
from headrace_cli.documents import print_json
from headrace_cli.terminal import output

_EPILOG = (
    "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no mesh answers, 130 interrupted. "
    "HEADRACE_ENDPOINT, HEADRACE_API_KEY and HEADRACE_PROFILE stand in for --endpoint, --api-key and --profile; "
    "profiles are read from HEADRACE_CONFIG or ~/.config/headrace/config.toml."
)

app = typer.Typer(
    help="Headrace: one front door for every model of every tenant.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("restart")(restart.restart)
app.command("status")(status.status)
app.command("infer")(infer.infer)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("embed")(embed.embed)
app.add_typer(models.app, name="models")
app.add_typer(runners.app, name="runners")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
app.add_typer(quota.app, name="quota")
app.add_typer(usage.app, name="usage")
app.add_typer(audit.app, name="audit")
app.add_typer(certs.app, name="certs")


@app.command("version")
def version(as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON.")] = False) -> None:
    """Show the version of this command."""
    # Loaded here because it takes long and nothing else needs it.
    from importlib.metadata import version as installed_version

    number = installed_version("headrace")
    if as_json:
        print_json({"version": number})
    else:
        output().print(number)
