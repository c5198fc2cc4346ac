"""A gateway's `Generate` and nothing else, whose answers a test writes down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from headrace_client import rpcs
from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FINISH_REASON_UNSPECIFIED,
    CompletionDelta,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    GenerationUsage,
)
from support.scripted_mesh import ScriptedMesh, serving

Step: TypeAlias = GenerateResponse | Exception | None
"""A message, a failure to end with, or to wait for ever."""

Script: TypeAlias = Callable[[GenerateRequest], Sequence[Step]]
WORDS = ("The", " cat", " sat", ".")


def delta(
    text: str = "",
    *token_ids: int,
    index: int = 0,
    finish: FinishReason.ValueType = FINISH_REASON_UNSPECIFIED,
) -> GenerateResponse:
    """A message with one delta."""
    return GenerateResponse(deltas=[CompletionDelta(index=index, text=text, token_ids=token_ids, finish_reason=finish)])


def end(*, prompt_tokens: int = 3, cached: int = 1, tokens: int = 4) -> GenerateResponse:
    """The message that ends a stream."""
    message = GenerateResponse(
        usage=GenerationUsage(prompt_tokens=prompt_tokens, cached_prompt_tokens=cached, completion_tokens=tokens)
    )
    message.timings.queue_time.FromMilliseconds(1)
    message.timings.time_to_first_token.FromMilliseconds(20)
    message.timings.generation_time.FromMilliseconds(300)
    message.execution.runner = "runner-0"
    message.execution.backend = "llamacpp"
    message.execution.device_type = "cpu"
    return message


def sentence(request: GenerateRequest) -> list[Step]:
    """Four words for each of the completions, then the end."""
    completions = request.completions or 1
    finish = FINISH_REASON_LENGTH if request.sampling.max_tokens == len(WORDS) else FINISH_REASON_STOP
    script: list[Step] = [GenerateResponse(model_name=request.model_name, model_version="1")]
    for index in range(completions):
        script += [delta(word, 10 + place, index=index) for place, word in enumerate(WORDS[:-1])]
        script.append(delta(WORDS[-1], 13, index=index, finish=finish))
    return [*script, end(tokens=len(WORDS) * completions)]


class GenerationGateway(ScriptedMesh):
    """Answers each call with what `script` gives for its request.

    Attributes:
        requests: What was asked, in order; `calls` has the metadata and deadlines.
        script: Asked once for each call.
    """

    def __init__(self, script: Script = sentence) -> None:
        super().__init__(responses={rpcs.GENERATE.path: self._generate})
        self.requests: list[GenerateRequest] = []
        self.script = script

    async def _generate(self, content: bytes) -> AsyncIterator[bytes]:
        request = GenerateRequest.FromString(content)
        self.requests.append(request)
        for step in self.script(request):
            if step is None:
                await asyncio.Event().wait()
            elif isinstance(step, Exception):
                raise step
            else:
                yield step.SerializeToString()


@asynccontextmanager
async def generating(
    script: Script = sentence,
) -> AsyncGenerator[tuple[GenerationGateway, str]]:
    """A gateway and its address."""
    gateway = GenerationGateway(script)
    async with serving(gateway) as address:
        yield gateway, address
