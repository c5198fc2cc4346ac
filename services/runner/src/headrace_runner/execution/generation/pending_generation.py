"""A call that a generating replica has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace_runner.calls import Ended, IncomingCall
from headrace_runner.execution.generation.answers import AnswerWriter
from headrace_runner.execution.generation.output import Output
from headrace_runner.execution.generation.request import GenerationRequest


@dataclass(slots=True, eq=False)
class PendingGeneration:
    """A call between its arrival and the end of its work.

    Attributes:
        leave_at: When it has to be looked at because its time is over.
        ended: None once the caller was told or has left, which is before the model has stopped.
        slots: Done when it has its slots.
        task: Works for it.
        prompt: Its tokens, those that the caller has already included.
        max_tokens: Tokens that each completion may have.
        output: What has come; there once the prompt's tokens are known.
        started_s: When it got its slots; 0 before.
    """

    call: IncomingCall
    request: GenerationRequest
    writer: AnswerWriter
    entered_s: float
    leave_at: float
    ended: Ended | None
    slots: asyncio.Future[None]
    task: asyncio.Task[None] | None = None
    prompt: Sequence[int] = field(default_factory=tuple[int, ...])
    max_tokens: int = 0
    output: Output | None = None
    started_s: float = 0.0
