"""OpenAI's chats and completions over the mesh's `Generate`: whole, or as events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from headrace_client import rpcs
from headrace_client.contracts.headrace.gateway.v1.generation_pb2 import GenerateRequest, GenerateResponse
from headrace_client.errors import HeadraceError
from headrace_gateway.http.merging import merged
from headrace_gateway.http.openai.answer_head import AnswerHead
from headrace_gateway.http.openai.errors import in_openai_terms
from headrace_gateway.http.server_sent_events import event
from headrace_gateway.http.sessions import CallContext, Session

DONE = event(b"[DONE]")
"""The last event of a stream that came to its end."""
_PROMPTS_AT_ONCE = 8

Document = dict[str, Any]
Part = tuple[int, GenerateResponse]
"""A message of the mesh, and the number of the prompt that it answers."""


def head_of(kind: str, model: str, call: CallContext) -> AnswerHead:
    """What an answer begins with.

    Args:
        kind: What the id begins with: `chatcmpl` or `cmpl`.
        model: As the request names it.
        call: Whose request id the answer's has.
    """
    return AnswerHead(id=f"{kind}-{call.request_id}", created=int(time.time()), model=model)


async def parts(
    session: Session, requests: Sequence[GenerateRequest], *, call: CallContext
) -> AsyncGenerator[Part, None]:
    """What the mesh answers to all requests, as it comes. Closing it cancels what is under way.

    Raises:
        HeadraceError: The first failure, in OpenAI's terms.
    """
    sources = [session.stream(rpcs.GENERATE, request, call=call) for request in requests]
    try:
        if len(sources) == 1:
            async with aclosing(sources[0]) as source:
                async for message in source:
                    yield 0, message
            return
        async with aclosing(merged(sources, at_once=_PROMPTS_AT_ONCE)) as both:
            async for part in both:
                yield part
    except HeadraceError as error:
        raise in_openai_terms(error) from None


async def events(
    source: AsyncGenerator[Part, None],
    add: Callable[[int, GenerateResponse], Iterator[Document]],
    end: Callable[[], Iterator[Document]],
) -> AsyncGenerator[bytes, None]:
    """The chunks that `add` makes of each part, then those of `end`, then `[DONE]`."""
    async with aclosing(source):
        async for prompt, message in source:
            if content := _events(add(prompt, message)):
                yield content
    yield _events(end()) + DONE


def _events(documents: Iterable[Document]) -> bytes:
    return b"".join(event(orjson.dumps(document)) for document in documents)
