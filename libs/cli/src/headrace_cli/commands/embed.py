"""`headrace embed`: texts as vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace_cli.session import Session, calls_mesh


@calls_mesh
def embed(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="Without a version: the newest ready one.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="What to embed; - or nothing reads standard input, a text a line."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the texts from a file, one a line.")
    ] = None,
    npy: Annotated[
        str | None,
        typer.Option(
            "--npy",
            metavar="FILE",
            help="Write the vectors there as a float32 array of shape (texts, dimensions); - is standard output.",
        ),
    ] = None,
    similarities: Annotated[
        bool,
        typer.Option("--similarities", "-s", help="Compare the texts: cosine similarity of each pair, largest first."),
    ] = False,
) -> None:
    """Turn texts into vectors of which those of similar texts point the same way."""
    # Brings numpy along, which other commands' help and completion don't need.
    from headrace_cli.embedding_call import embed_texts, texts_for

    embed_texts(session, model, texts_for(texts or [], file), npy=npy, similarities=similarities)
