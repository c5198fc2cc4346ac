"""One call of a language model: the prompt that a person gave, and what comes of it, as it comes."""

from __future__ import annotations

import dataclasses
import sys
import time
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import typer
from rich.text import Text

from headrace_cli.documents import print_json
from headrace_cli.model_names import reference
from headrace_cli.sampling_options import Sampling
from headrace_cli.session import Session
from headrace_cli.standard_input import decoded, read_standard_input
from headrace_cli.terminal import messages
from headrace_client import BlockingGeneration, Delta, GenerateOptions
from headrace_client.generation import Completion, TokenLogprob, Transcript
from headrace_client.generation_request import Prompt

_CLEAR_LINE = "\r\x1b[2K"


def prompt_for(prompt: str | None, file: Path | None, *, chat: bool, system: str | None) -> Prompt:
    """The prompt of the command line, a file, or standard input.

    Raises:
        BadParameter: it was given twice.
        ValidationError: what was read is not UTF-8.
        OSError: the file can't be read.
    """
    if prompt is not None and file is not None:
        raise typer.BadParameter("give either PROMPT or --file")
    if file is not None:
        text = decoded(file.expanduser().read_bytes(), str(file))
    elif prompt is None or prompt == "-":
        text = decoded(read_standard_input("The prompt"), "standard input")
    else:
        text = prompt
    if not chat:
        return text
    return [*([("system", system)] if system is not None else []), ("user", text)]


def generate_once(session: Session, model: str, prompt: Prompt, options: Sampling, *, stats: bool | None) -> None:
    """Generate, and print what comes; also what came before a failure or an interrupt.

    Raises:
        BadParameter: the text names no model.
        HeadraceError: the mesh refused it, or it was broken off.
    """
    named = reference(model)
    asked = cast(
        "GenerateOptions",
        {
            **options,
            "version": named.model_version,
            "timeout_s": session.timeout_s,
            "report_progress": not session.as_json and sys.stderr.isatty(),
        },
    )
    with session.client() as client, client.generate(named.name, prompt, **asked) as generation:
        if session.as_json:
            try:
                generation.read()
            finally:
                if generation.completions:
                    print_json(document(generation))
            return
        watch = Watch()
        try:
            show(generation, watch, whole=(options.get("completions") or 1) > 1)
        finally:
            if generation.completions and (sys.stderr.isatty() if stats is None else stats):
                messages().print(Text(watch.report(generation), style="quiet"))


class Watch:
    """When tokens came, as seen here."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s = 0.0

    def saw(self, delta: Delta) -> None:
        """Takes note of a delta that just came."""
        if delta.token_ids or delta.untold_tokens:
            self._last_s = time.monotonic()
            if self._first_s is None:
                self._first_s = self._last_s

    def report(self, generation: Transcript) -> str:
        """How much came and how fast, on one line."""
        tokens = sum(len(one.token_ids) + one.untold_tokens for one in generation.completions)
        parts = [f"{tokens} tokens"]
        if self._first_s is not None:
            took_s = self._last_s - self._first_s
            if took_s > 0:
                parts.append(f"{(tokens - len(generation.completions)) / took_s:.1f} tokens/s")
            parts.append(f"first after {self._first_s - self._started_s:.2f} s")
        if generation.usage is not None:
            usage = generation.usage
            parts.append(f"prompt of {usage.prompt_tokens} tokens, {usage.cached_prompt_tokens} of them cached")
        if generation.completions:
            parts.append(
                ", ".join(f"ended by {reason}" if reason else "broken off" for reason in generation.finish_reasons)
            )
        if generation.execution is not None:
            ran = generation.execution
            parts.append(f"on {ran.runner} ({ran.backend}, {ran.device_type})")
        return "; ".join(parts)


def show(generation: BlockingGeneration, watch: Watch, *, whole: bool = False) -> None:
    """Print what comes as it comes, and a newline at the end where there is none.

    Args:
        generation: What to print.
        watch: Sees each delta.
        whole: Print completions one by one when they have ended, after their numbers, instead of as they come.
    """
    ends_line, progress_shown = True, False
    try:
        for delta in generation:
            watch.saw(delta)
            if delta.progress is not None:
                done = delta.progress
                _tell(f"{_CLEAR_LINE}prompt: {done.computed_tokens} of {done.prompt_tokens} tokens")
                progress_shown = True
                continue
            if progress_shown:
                _tell(_CLEAR_LINE)
                progress_shown = False
            if whole and delta.finish_reason is not None:
                _write_numbered(one for one in generation.completions if one.index == delta.index)
            elif not whole and delta.text:
                write(delta.text)
                ends_line = delta.text.endswith("\n")
    finally:
        if progress_shown:
            _tell(_CLEAR_LINE)
        if whole:
            _write_numbered(one for one in generation.completions if one.finish_reason is None)
        if not ends_line:
            write("\n")


def _write_numbered(completions: Iterable[Completion]) -> None:
    for completion in completions:
        write(f"[{completion.index}] {completion.text}\n")


def write(text: str) -> None:
    """Print a model's words at once; on a terminal without what could steer it."""
    sys.stdout.write("".join(map(_harmless, text)) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def document(generation: Transcript) -> dict[str, object]:
    """All that came, for programs."""
    usage, timings, ran = generation.usage, generation.timings, generation.execution
    return {
        "model": generation.model,
        "version": generation.version,
        "completions": [
            {
                "index": completion.index,
                "text": completion.text,
                "token_ids": completion.token_ids,
                "finish_reason": completion.finish_reason,
                **({"logprobs": [_likelihood(one) for one in completion.logprobs]} if completion.logprobs else {}),
            }
            for completion in generation.completions
        ],
        "usage": None if usage is None else dataclasses.asdict(usage),
        "timings": None if timings is None else dataclasses.asdict(timings),
        "execution": None if ran is None else dataclasses.asdict(ran),
    }


def _likelihood(one: TokenLogprob) -> dict[str, object]:
    return {
        "token_id": one.token_id,
        # A token need not be whole characters.
        "token": one.token.decode(errors="replace"),
        "bytes": list(one.token),
        "logprob": one.logprob,
        **({"top": [_likelihood(other) for other in one.top]} if one.top else {}),
    }


def _harmless(character: str) -> str:
    # Others than control characters stay: joiners and marks are parts of what people read.
    steers = unicodedata.category(character) == "Cc" and character not in "\n\t"
    return "\N{REPLACEMENT CHARACTER}" if steers else character


def _tell(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
