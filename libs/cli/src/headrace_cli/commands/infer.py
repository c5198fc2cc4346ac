"""`headrace infer`: one request to a model."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace_cli.commands.session import DEFAULT_API_KEY, ApiKey, AsJson, Endpoint, Timeout, connect

Inputs = Annotated[
    list[str],
    typer.Option(
        "--input",
        "-i",
        metavar="[NAME=]VALUE",
        help="A tensor: @FILE.npy, @FILE.json, a JSON literal, or - for standard input. Repeat for each tensor.",
    ),
]


def infer(
    model: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="Without a version: the latest.")],
    inputs: Inputs,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", metavar="NAME", help="An output to ask for. Default: all."),
    ] = None,
    endpoint: Endpoint = None,
    api_key: ApiKey = DEFAULT_API_KEY,
    timeout: Timeout = 60.0,
    json_answer: AsJson = False,
) -> None:
    """Send one request to a model and show its answer."""
    # Brings the array library along, which takes as long to import as all the rest.
    from headrace_cli.inference_call import infer_once

    with connect(endpoint, api_key, timeout_s=timeout) as connection:
        infer_once(connection, model=model, inputs=inputs, outputs=outputs or [], json_answer=json_answer)
