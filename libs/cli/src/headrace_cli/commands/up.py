"""`headrace up`: a whole mesh on this machine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace_cli.mesh.options import DEFAULT_GRPC_PORT, DEFAULT_HTTP_PORT, MeshOptions

_PORT_MAX = 65_535


def _port(option: str, what: str, default: int) -> Any:
    text = f"{what}; 0 means any. Default: {default}, or any if it is taken."
    return typer.Option(option, min=0, max=_PORT_MAX, help=text, show_default=False)


def up(
    state_dir: Annotated[
        Path,
        typer.Option("--state-dir", envvar="HEADRACE_STATE_DIR", help="Folder for everything that the mesh keeps."),
    ] = Path(".headrace"),
    grpc_port: Annotated[int | None, _port("--grpc-port", "Port of the gateways", DEFAULT_GRPC_PORT)] = None,
    http_port: Annotated[int | None, _port("--http-port", "Port for HTTP", DEFAULT_HTTP_PORT)] = None,
    http: Annotated[bool, typer.Option("--http/--no-http", help="Serve HTTP beside gRPC.")] = True,
    runners: Annotated[int, typer.Option("--runners", min=0, max=64, help="How many CPU runners.")] = 2,
    gateways: Annotated[
        int, typer.Option("--gateways", min=1, max=16, help="How many gateways; they share the ports.")
    ] = 1,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Register the sample models that are installed.")
    ] = True,
    tls: Annotated[
        bool, typer.Option("--tls/--no-tls", help="Have the services know each other by certificates, made here.")
    ] = False,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            "--ready-file",
            help="JSON file to write once the mesh has answered a real request; removed when it stops.",
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option("--env", envvar="HEADRACE_ENV", help="Settings of the services to use: dev, test or prod."),
    ] = None,
) -> None:
    """Start a whole mesh on this machine and keep it running until Ctrl-C.

    PostgreSQL, Valkey and the artefact store are started or made under the state directory, unless
    HEADRACE_POSTGRES_URL, HEADRACE_REDIS_URL or HEADRACE_STORAGE_URL name servers of yours.
    """
    if env is not None and env not in {"dev", "test", "prod"}:
        raise typer.BadParameter("must be dev, test or prod", param_hint="--env")
    if find_spec("headrace_gateway") is None:
        raise typer.BadParameter("the services are not installed: pip install 'headrace[mesh]'", param_hint="up")
    options = MeshOptions(
        state_dir=state_dir,
        grpc_port=grpc_port,
        http_port=http_port,
        http=http,
        runners=runners,
        gateways=gateways,
        samples=samples,
        tls=tls,
        ready_file=ready_file.absolute() if ready_file else None,
        env=env,
        postgres_url=os.environ.get("HEADRACE_POSTGRES_URL") or None,
        redis_url=os.environ.get("HEADRACE_REDIS_URL") or None,
        storage_url=_absolute(os.environ.get("HEADRACE_STORAGE_URL") or None),
    )
    # Brings the services' common parts and the clients of PostgreSQL and Valkey along, which no other command needs.
    from headrace_cli.mesh.start import run_mesh

    raise typer.Exit(run_mesh(options))


def _absolute(storage_url: str | None) -> str | None:
    """A folder's path as seen from any process; URLs stay as they are."""
    return str(Path(storage_url).absolute()) if storage_url and "://" not in storage_url else storage_url
