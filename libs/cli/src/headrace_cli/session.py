"""What every command that calls a mesh shares: where it is, who calls, and in which form to answer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from headrace_cli.local_mesh import local_endpoint
from headrace_cli.shared_options import shares

if TYPE_CHECKING:
    from headrace_client import Client, ClientOptions

P = ParamSpec("P")

TIMEOUT_S = 30.0
_PANEL = "Mesh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The options that all commands for a mesh have; None was not given.

    Attributes:
        endpoint: `host:port` of a gateway.
        api_key: The key, or `@FILE`.
        profile: Name of a profile of the profile file.
        tls: Whether the connection is encrypted.
        ca_file: PEM file of the authorities to trust; implies `tls`.
        timeout_s: Time for the call.
        as_json: Whether to answer with JSON.
    """

    endpoint: str | None = None
    api_key: str | None = None
    profile: str | None = None
    tls: bool | None = None
    ca_file: Path | None = None
    timeout_s: float | None = None
    as_json: bool = False

    def options(self) -> ClientOptions:
        """Where the mesh is and who calls: flag, environment, profile, local mesh, the usual port, in this order.

        Raises:
            ConfigError: the profile file, a profile or the key's file can't be used.
        """
        # Brings gRPC and numpy along, which take longer to load than all the rest.
        from headrace_client import Tls, client_options
        from headrace_client.options import DEFAULT_ENDPOINT

        return client_options(
            self.endpoint,
            api_key=self.api_key,
            profile=self.profile,
            tls=Tls(ca_file=self.ca_file) if self.ca_file is not None and self.tls is not False else self.tls,
            default_endpoint=local_endpoint(os.environ) or DEFAULT_ENDPOINT,
        )

    def client(self, *, timeout_s: float = TIMEOUT_S) -> Client:
        """A client of the mesh, to be used with `with`; `timeout_s` holds where none was given.

        Raises:
            ConfigError: as `options`.
        """
        from headrace_client import Client

        options = self.options()
        return Client(
            options.endpoint,
            api_key=options.api_key or "",
            tls=options.tls or False,
            timeout_s=self.timeout_or(timeout_s),
        )

    def timeout_or(self, timeout_s: float) -> float:
        """The time that was given, else this one."""
        return timeout_s if self.timeout_s is None else self.timeout_s


def checked_number(value: float | None) -> float | None:
    """A number above 0 that is one; wrong usage otherwise."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter("must be a number above 0")
    return value


def calls_mesh(command: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Give a command the options of `Session`, after its own ones; it receives them as its first argument."""

    def session(**arguments: Any) -> Session:
        # Read when gRPC is first imported: its own log would mix with what is said here.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        return Session(**arguments)

    return shares(_shared, session)(command)


def _shared(
    *,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            metavar="HOST:PORT",
            rich_help_panel=_PANEL,
            help="A gateway. Default: HEADRACE_ENDPOINT, the profile, the mesh that runs on the state directory, "
            "127.0.0.1:8081.",
            show_default=False,
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY|@FILE",
            rich_help_panel=_PANEL,
            help="The key to call with. Default: HEADRACE_API_KEY, the profile, the well-known key of a local mesh.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            rich_help_panel=_PANEL,
            help="A profile of the profile file. Default: HEADRACE_PROFILE, `default`.",
            show_default=False,
        ),
    ] = None,
    tls: Annotated[
        bool | None,
        typer.Option("--tls/--no-tls", rich_help_panel=_PANEL, help="Encrypt the connection.", show_default=False),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            exists=True,
            dir_okay=False,
            rich_help_panel=_PANEL,
            help="PEM file of the authorities to trust; implies --tls.",
        ),
    ] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            callback=checked_number,
            rich_help_panel=_PANEL,
            help=f"Time for the call. Default: {TIMEOUT_S:.0f}, more for what takes long.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=_PANEL, help="Answer with JSON.")] = False,
) -> None:
    """The options of `Session` as typer reads them."""
