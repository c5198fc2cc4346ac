"""What every subcommand that calls a mesh shares: where it is, who calls, and in which form to answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from headrace_cli.connection import Connection, read_api_key
from headrace_cli.terminal import output

DEFAULT_ENDPOINT = "127.0.0.1:8081"
DEFAULT_API_KEY = "community"

Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        envvar="HEADRACE_ENDPOINT",
        help="host:port of a gateway. Default: the mesh that runs on the state directory, else 127.0.0.1:8081.",
        show_default=False,
    ),
]
ApiKey = Annotated[
    str,
    typer.Option("--api-key", envvar="HEADRACE_API_KEY", help="The key to call with, or @FILE to read it from a file."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON, for programs.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Deadline of each call in seconds.")]


def connect(endpoint: str | None, api_key: str, *, timeout_s: float = 30.0) -> Connection:
    """A connection to the named mesh, or to the one that runs here.

    Raises:
        ConfigError: the key's file can't be read.
    """
    return Connection(
        endpoint=endpoint or local_endpoint() or DEFAULT_ENDPOINT,
        api_key=read_api_key(api_key),
        timeout_s=timeout_s,
    )


def state_dir() -> Path:
    """The state directory that `headrace up` uses without a flag."""
    return Path(os.environ.get("HEADRACE_STATE_DIR") or ".headrace")


def local_endpoint() -> str | None:
    """The gateway of the mesh that runs on the state directory; None when there is none."""
    try:
        content: object = json.loads((state_dir() / "mesh.json").read_text())
        mesh = cast("dict[str, Any]", content)
        os.kill(int(mesh["pid"]), 0)
        return str(mesh["grpc"])
    except PermissionError:
        # The file can be read, so the process is there and belongs to somebody else.
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def print_json(value: object) -> None:
    """Print JSON; protobuf messages with their proto field names."""
    plain = _plain(value)
    output().print(json.dumps(plain, indent=2, ensure_ascii=False), markup=False)


def _plain(value: object) -> object:
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if isinstance(value, list):
        return [_plain(element) for element in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _plain(element) for key, element in cast("dict[str, object]", value).items()}
    return value
