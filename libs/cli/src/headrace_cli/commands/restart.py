"""`headrace restart`: services of the mesh that `headrace up` runs, one process after another."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.text import Text

from headrace_cli.documents import print_json_line
from headrace_cli.local_mesh import control_socket
from headrace_cli.terminal import output


def restart(
    services: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SERVICE",
            help="gateway, http, runner, quota or registry, or one process, such as runner-1. Default: all.",
        ),
    ] = None,
    state_dir: Annotated[
        Path,
        typer.Option("--state-dir", envvar="HEADRACE_STATE_DIR", help="Folder of the mesh."),
    ] = Path(".headrace"),
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON, a document a line.")] = False,
) -> None:
    """Restart services of the mesh that `headrace up` runs here, one process after another.

    Each process finishes what it has, and its successor must serve before the next one leaves: with two gateways and
    two runners a client that retries notices nothing. The restart goes on when this command is interrupted.
    """
    for news in _asked(state_dir, services or []):
        if as_json and "failed" not in news:
            print_json_line(news)
        elif "restarted" in news:
            output().print(Text.assemble(("✓ ", "good"), (news["restarted"], "name"), f" in {news['took_s']:.1f} s"))


def _asked(state_dir: Path, services: list[str]) -> Iterator[dict[str, Any]]:
    """What the supervisor tells of the restart, until it is done.

    Raises:
        UnreachableError: no mesh runs there, or it ended meanwhile.
        HeadraceError: it refused, or a process did not come back.
    """
    from headrace_cli.failures import RESTART
    from headrace_client.errors import HeadraceError, UnreachableError

    path = control_socket(state_dir)
    if path is None:
        raise UnreachableError(f"no mesh runs on {state_dir}", context={"state_dir": str(state_dir)})
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps({"restart": services}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    news = cast("dict[str, Any]", json.loads(line))
                    if "failed" in news:
                        raise HeadraceError(str(news["failed"]), RESTART)
                    yield news
                    if news.get("done"):
                        return
        except OSError:
            pass
    raise UnreachableError(f"the mesh on {state_dir} has ended", context={"state_dir": str(state_dir)})
