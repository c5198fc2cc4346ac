"""As `many`, for callers who block."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future

from headrace_client.blocking_stream import BlockingStream
from headrace_client.errors import HeadraceError
from headrace_client.inference import InferRequest, InferResult
from headrace_client.many import CONCURRENCY, check_concurrency


def iterate_many(
    stream: BlockingStream,
    requests: Iterable[InferRequest],
    *,
    concurrency: int = CONCURRENCY,
    return_errors: bool = False,
    timeout_s: float | None = None,
) -> Generator[InferResult | HeadraceError, None, None]:
    """The results of requests as they become due, in their order; `requests` is read by the thread that iterates.

    Arguments and errors are those of `many.iterate_many`.
    """
    check_concurrency(concurrency)
    under_way: deque[Future[InferResult] | HeadraceError] = deque()
    source = iter(requests)
    try:
        while True:
            while len(under_way) < concurrency and not _is_due(under_way) and (request := next(source, None)):
                under_way.append(_started(stream, request, timeout_s))
            if not under_way:
                return
            outcome = _outcome(under_way[0])
            under_way.popleft()
            if isinstance(outcome, HeadraceError) and not return_errors:
                raise outcome
            yield outcome
    finally:
        for future in under_way:
            if isinstance(future, Future):
                future.cancel()


def _is_due(under_way: deque[Future[InferResult] | HeadraceError]) -> bool:
    if not under_way:
        return False
    first = under_way[0]
    return isinstance(first, HeadraceError) or first.done()


def _started(
    stream: BlockingStream, request: InferRequest, timeout_s: float | None
) -> Future[InferResult] | HeadraceError:
    try:
        return stream.submit_request(request, timeout_s=timeout_s)
    except HeadraceError as error:
        return error


def _outcome(under_way: Future[InferResult] | HeadraceError) -> InferResult | HeadraceError:
    if isinstance(under_way, HeadraceError):
        return under_way
    try:
        return under_way.result()
    except HeadraceError as error:
        return error
