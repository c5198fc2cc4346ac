"""Many inferences at once over a packed stream, with their results in the order of the requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from headrace_client.errors import HeadraceError, ValidationError
from headrace_client.inference import InferRequest, InferResult
from headrace_client.stream import InferStream

CONCURRENCY = 256


async def infer_many(
    stream: InferStream,
    requests: Iterable[InferRequest],
    *,
    concurrency: int = CONCURRENCY,
    return_errors: bool = False,
    timeout_s: float | None = None,
) -> list[InferResult | HeadraceError]:
    """The results of all requests; see `iterate_many`."""
    async with aclosing(
        iterate_many(stream, requests, concurrency=concurrency, return_errors=return_errors, timeout_s=timeout_s)
    ) as results:
        return [result async for result in results]


async def iterate_many(
    stream: InferStream,
    requests: Iterable[InferRequest],
    *,
    concurrency: int = CONCURRENCY,
    return_errors: bool = False,
    timeout_s: float | None = None,
) -> AsyncGenerator[InferResult | HeadraceError, None]:
    """The results of requests as they become due, in the order of the requests.

    A request is taken from `requests` when there is room for it, so they may be endless. When the iteration ends
    early, calls under way are cancelled.

    Args:
        stream: Carries the calls.
        requests: What to run.
        concurrency: Requests taken whose results were not given yet, at most.
        return_errors: Whether a request that fails gives its error as its result; otherwise the first ends all.
        timeout_s: For requests that state none; None means that of the client.

    Raises:
        HeadraceError: A request failed, unless errors are results.
        ValidationError: `concurrency` is below 1.
    """
    check_concurrency(concurrency)
    under_way: deque[asyncio.Future[InferResult] | HeadraceError] = deque()
    source = iter(requests)
    try:
        while True:
            # What is due is given first, so that the requests that replace a batch of results leave together.
            while len(under_way) < concurrency and not _is_due(under_way) and (request := next(source, None)):
                under_way.append(await _started(stream, request, timeout_s))
            if not under_way:
                return
            outcome = await _outcome(under_way[0])
            under_way.popleft()
            if isinstance(outcome, HeadraceError) and not return_errors:
                raise outcome
            yield outcome
    finally:
        for future in under_way:
            if isinstance(future, asyncio.Future) and not future.cancel() and not future.cancelled():
                future.exception()  # Marks it as seen.


def check_concurrency(concurrency: int) -> None:
    """Raises `ValidationError` for a concurrency below 1."""
    if concurrency < 1:
        raise ValidationError(f"concurrency is 1 or more, not {concurrency}", field="concurrency")


def _is_due(under_way: deque[asyncio.Future[InferResult] | HeadraceError]) -> bool:
    if not under_way:
        return False
    first = under_way[0]
    return isinstance(first, HeadraceError) or first.done()


async def _started(
    stream: InferStream, request: InferRequest, timeout_s: float | None
) -> asyncio.Future[InferResult] | HeadraceError:
    try:
        return await stream.submit_request(request, timeout_s=timeout_s)
    except HeadraceError as error:
        return error


async def _outcome(under_way: asyncio.Future[InferResult] | HeadraceError) -> InferResult | HeadraceError:
    if isinstance(under_way, HeadraceError):
        return under_way
    try:
        return await under_way
    except HeadraceError as error:
        return error
