"""`headrace generate`: what a language model makes of one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace_cli.sampling_options import Sampling, takes_sampling
from headrace_cli.session import Session, calls_mesh

_TOKENS_DEFAULT = 256
"""A model that continues plain text may never end by itself, and a context takes minutes to fill."""


@calls_mesh
@takes_sampling
def generate(
    sampling: Sampling,
    session: Session,
    model: Annotated[
        str, typer.Argument(metavar="MODEL[:VERSION]", help="Without a version: the one that serves by default.")
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="What to continue; - or nothing reads standard input."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="Read the prompt from a file; a newline at its end is dropped."
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", "-c", help="The prompt is a user's message, for the model's chat template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="What the model is told first; implies --chat.")
    ] = None,
    completions: Annotated[
        int | None,
        typer.Option(
            "--completions",
            "-n",
            metavar="NUMBER",
            help="How many to generate, each shown when it has ended. At most the model's slots. Default: 1.",
            show_default=False,
        ),
    ] = None,
    top_logprobs: Annotated[
        int | None,
        typer.Option(
            "--top-logprobs",
            metavar="NUMBER",
            help="0 to 20: log-probabilities of the tokens and so many alternatives, with --json.",
            show_default=False,
        ),
    ] = None,
    stats: Annotated[
        bool | None,
        typer.Option(
            "--stats/--no-stats",
            help="Say on standard error how fast it was. Default: if that is a terminal.",
            show_default=False,
        ),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option("--request-id", metavar="TEXT", help="Finds the request in the logs of the mesh."),
    ] = None,
) -> None:
    """Show what a language model makes of a prompt, token by token. Ctrl-C ends it.

    With --json: one document, at the end.
    """
    # Brings gRPC along, which other commands' help and completion don't need.
    from headrace_cli.generation_call import generate_once, prompt_for

    asked = prompt_for(prompt, file, chat=chat or system is not None, system=system)
    own = {"completions": completions, "top_logprobs": top_logprobs, "request_id": request_id}
    generate_once(session, model, asked, {"max_tokens": _TOKENS_DEFAULT, **sampling, **own}, stats=stats)
