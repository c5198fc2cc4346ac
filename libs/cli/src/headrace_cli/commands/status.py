"""`headrace status`: whether a mesh answers, whether it is ready, and what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.presentation import enum_text, facts, words
from headrace_cli.runner_pages import LOADED
from headrace_cli.session import Session, calls_mesh
from headrace_cli.terminal import output

if TYPE_CHECKING:
    from headrace_client import Client
    from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2

_TIMEOUT_S = 5.0
_NOT_READY = 1


@calls_mesh
def status(session: Session) -> None:
    """Tell whether the mesh is ready, its version, its runners, the models in memory, and whose key this is.

    Exit status: 0 ready, 1 not ready or the key is refused, 3 nobody answers. --api-key '' asks without a key, which
    tells no more than ready or not; so does a mesh that isn't ready.
    """
    options = session.options()
    with session.client(timeout_s=_TIMEOUT_S) as client:
        found = _asked(client, endpoint=options.endpoint, with_key=options.api_key is not None)
    if session.as_json:
        print_json(found)
    else:
        _print(found)
    raise typer.Exit(0 if found["ready"] else _NOT_READY)


def _asked(client: Client, *, endpoint: str, with_key: bool) -> dict[str, object]:
    """The document; what needs a key and a mesh that is ready is null without them.

    Raises:
        UnreachableError: nobody answers, or not in time.
        HeadraceError: the key is refused.
    """
    from headrace_client.errors import DeadlineError, UnreachableError

    try:
        ready = client.server.ready()
    except DeadlineError:
        raise UnreachableError(f"no mesh answers at {endpoint} in time", context={"endpoint": endpoint}) from None
    found: dict[str, object] = {"endpoint": endpoint, "live": True, "ready": ready}
    if not (ready and with_key):
        return found | {"server": None, "tenant": None, "runners": None, "models": None}
    server = client.server.metadata()
    runners = client.runners.list().runners
    return found | {
        "server": {"name": server.name, "version": server.version},
        "tenant": client.tenants.get(),
        "runners": {
            "ready": sum(enum_text(runner, "state") == "ready" for runner in runners),
            "connected": len(runners),
        },
        "models": _models_loaded(list(runners)),
    }


def _models_loaded(runners: list[mesh_pb2.Runner]) -> list[dict[str, object]]:
    """The versions in memory with the names of the runners that have them, ordered by name."""
    found: dict[tuple[str, int], list[str]] = {}
    for runner in runners:
        for model in runner.models:
            if enum_text(model, "state") == LOADED:
                found.setdefault((model.model, model.version), []).append(runner.name or runner.id)
    return [{"model": model, "version": version, "runners": names} for (model, version), names in sorted(found.items())]


def _print(found: dict[str, object]) -> None:
    known = cast("dict[str, Any]", found)
    shown = facts()
    shown.add_row("endpoint", words(known["endpoint"], "name"))
    shown.add_row("state", Text("ready", style="good") if known["ready"] else Text("not ready", style="bad"))
    if known["server"] is not None:
        tenant, runners = known["tenant"], known["runners"]
        models = ", ".join(f"{model['model']}:{model['version']}" for model in known["models"])
        shown.add_row("server", words(f"{known['server']['name']} {known['server']['version']}"))
        shown.add_row("tenant", words(f"{tenant.id} ({enum_text(tenant, 'status')})"))
        shown.add_row("runners", f"{runners['ready']} ready of {runners['connected']}")
        shown.add_row("in memory", words(models or "no models"))
    output().print(shown)
