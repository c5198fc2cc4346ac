"""`headrace infer`: one request to a model."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace_cli.session import Session, calls_mesh


@calls_mesh
def infer(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="Without a version: the newest ready one.")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]VALUE",
            help="A tensor: @FILE.npy, @FILE.json, a JSON literal, or - for standard input. Repeat for each tensor.",
        ),
    ],
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", metavar="NAME", help="An output to ask for. Repeat it. Default: all."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUE",
            help="A parameter of the request: a JSON number, true, false, or a text. Repeat it.",
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            "--priority",
            min=0,
            max=9,
            help="0 to 9, 9 is most urgent. Default: 5.",
            show_default=False,
        ),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option("--request-id", metavar="TEXT", help="Finds the request in the logs of the mesh."),
    ] = None,
) -> None:
    """Send one request to a model and show its answer."""
    # Brings numpy along, which other commands' help and completion don't need.
    from headrace_cli.inference_call import Asked, infer_once

    asked = Asked(
        model=model,
        inputs=inputs,
        outputs=outputs or [],
        parameters=parameters or [],
        priority=priority,
        request_id=request_id,
    )
    infer_once(session, asked)
