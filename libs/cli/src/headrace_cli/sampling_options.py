"""How a model shall choose its tokens, as options of the commands that generate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeAlias

import typer

from headrace_cli.shared_options import shares

P = ParamSpec("P")
Sampling: TypeAlias = dict[str, Any]
"""What was given, as `headrace_client.GenerateOptions`, which is not loaded for help and completion."""

_PANEL = "Sampling"


def takes_sampling(command: Callable[Concatenate[Sampling, P], None]) -> Callable[..., None]:
    """Give a command the options of sampling, after its own ones; it receives what was given as its first argument."""
    return shares(_sampling, _options)(command)


def _options(
    *,
    affinity: str | None,
    stop: list[str] | None,
    logit_bias: list[str] | None,
    json_schema: str | None,
    grammar: str | None,
    ignore_end: bool,
    **as_they_are: Any,
) -> Sampling:
    given = {
        **as_they_are,
        "session": affinity,
        "stop": list(map(unescaped, stop)) if stop else None,
        "logit_bias": _biases(logit_bias) if logit_bias else None,
        "json_schema": _content(json_schema, "--json-schema"),
        "grammar": _content(grammar, "--grammar"),
        "ignore_end": ignore_end or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def unescaped(text: str) -> str:
    r"""The text with `\n`, `\t`, `\\` and `\u1234` as in JSON, which a shell makes hard to write; others stay."""
    try:
        return json.loads('"' + text.replace('"', '\\"') + '"', strict=False) if "\\" in text else text
    except ValueError:
        return text


def _biases(entries: Sequence[str]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for entry in entries:
        token, _, bias = entry.partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise typer.BadParameter(f"'{entry}' is no bias: write TOKEN=NUMBER", param_hint="--logit-bias") from None
    return biases


def _content(text: str | None, option: str) -> str | None:
    if text is None or not text.startswith("@"):
        return text
    path = Path(text[1:]).expanduser()
    try:
        return path.read_text()
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not UTF-8", param_hint=option) from None
    except OSError as error:
        raise typer.BadParameter(f"{path} can't be read: {error.strerror}", param_hint=option) from None


def _number(flag: str, text: str) -> Any:
    return typer.Option(flag, metavar="NUMBER", rich_help_panel=_PANEL, help=text, show_default=False)


_MaxTokens = Annotated[
    int | None,
    _number("--max-tokens", "Tokens at most, 1 or more. Default: 256 to generate, the room in the context to chat."),
]
_Temperature = Annotated[
    float | None, _number("--temperature", "0 to 5; 0 always takes the most likely token. Default: 1.")
]
_TopP = Annotated[
    float | None,
    _number("--top-p", "Above 0, at most 1: the likeliest tokens that together are so probable. Default: 1, all."),
]
_TopK = Annotated[int | None, _number("--top-k", "0 to 100000: only so many of the likeliest tokens. Default: 0, all.")]
_MinP = Annotated[
    float | None,
    _number("--min-p", "0 to 1: tokens at least so probable, relative to the likeliest. Default: 0, all."),
]
_RepetitionPenalty = Annotated[
    float | None,
    _number("--repetition-penalty", "0.01 to 5: divides the logits of recent tokens. Default: 1, none."),
]
_PresencePenalty = Annotated[
    float | None,
    _number("--presence-penalty", "-2 to 2: taken off the logits of tokens that occurred. Default: 0."),
]
_FrequencyPenalty = Annotated[
    float | None,
    _number("--frequency-penalty", "-2 to 2: taken off for each time that a token occurred. Default: 0."),
]
_Stop = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        metavar="TEXT",
        rich_help_panel=_PANEL,
        help=r"A text that ends the output, of up to 256 bytes; \n is a new line. Repeat it, up to 16 times.",
    ),
]
_Seed = Annotated[int | None, _number("--seed", "0 to 4294967294: makes sampling repeatable. Default: a random one.")]
_LogitBias = Annotated[
    list[str] | None,
    typer.Option(
        "--logit-bias",
        metavar="TOKEN=NUMBER",
        rich_help_panel=_PANEL,
        help="-100 to 100, added to the logits of a token. Repeat it.",
    ),
]
_IgnoreEnd = Annotated[
    bool,
    typer.Option("--ignore-end", rich_help_panel=_PANEL, help="Go on where the model would end."),
]
_JsonSchema = Annotated[
    str | None,
    typer.Option(
        "--json-schema", metavar="JSON|@FILE", rich_help_panel=_PANEL, help="The output is JSON that fits this."
    ),
]
_Grammar = Annotated[
    str | None,
    typer.Option("--grammar", metavar="GBNF|@FILE", rich_help_panel=_PANEL, help="The output is text of this."),
]
_Affinity = Annotated[
    str | None,
    typer.Option(
        "--session",
        metavar="TEXT",
        rich_help_panel=_PANEL,
        help="Calls of one session go where their common beginning has been computed.",
    ),
]
_Priority = Annotated[int | None, _number("--priority", "0 to 9, 9 is most urgent. Default: 5.")]
_ContinueElsewhere = Annotated[
    bool | None,
    typer.Option(
        "--continue-elsewhere/--no-continue-elsewhere",
        rich_help_panel=_PANEL,
        help="Whether another replica may go on where one was lost. Default: it may.",
        show_default=False,
    ),
]


def _sampling(
    *,
    max_tokens: _MaxTokens = None,
    temperature: _Temperature = None,
    top_p: _TopP = None,
    top_k: _TopK = None,
    min_p: _MinP = None,
    repetition_penalty: _RepetitionPenalty = None,
    presence_penalty: _PresencePenalty = None,
    frequency_penalty: _FrequencyPenalty = None,
    stop: _Stop = None,
    seed: _Seed = None,
    logit_bias: _LogitBias = None,
    ignore_end: _IgnoreEnd = False,
    json_schema: _JsonSchema = None,
    grammar: _Grammar = None,
    affinity: _Affinity = None,
    priority: _Priority = None,
    continue_elsewhere: _ContinueElsewhere = None,
) -> None:
    """The options as typer reads them; ranges are the mesh's to check."""
