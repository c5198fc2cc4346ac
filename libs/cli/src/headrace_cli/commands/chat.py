"""`headrace chat`: a conversation with a language model."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace_cli.sampling_options import Sampling, takes_sampling
from headrace_cli.session import Session, calls_mesh


@calls_mesh
@takes_sampling
def chat(
    sampling: Sampling,
    session: Session,
    model: Annotated[
        str, typer.Argument(metavar="MODEL[:VERSION]", help="Without a version: the one that serves by default.")
    ],
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="What the model is told before the conversation.")
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say on standard error how fast each answer was.")] = False,
) -> None:
    """Talk with a language model. Each line is a message; /exit or Ctrl-D ends it, /clear begins anew.

    A line that ends with a backslash goes on in the next one; lines between two lines of three double quotes are one.

    Ctrl-C ends an answer, or drops what has been typed; twice it ends all. Standard input may be a pipe.
    With --json each answer is a document on a line of its own.
    """
    # Brings gRPC along, which other commands' help and completion don't need.
    from headrace_cli.conversation import converse

    converse(session, model, system=system, options=sampling, stats=stats)
