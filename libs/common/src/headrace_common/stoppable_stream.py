"""Streams that never end by themselves, such as feeds, and the orderly stop of the process that serves them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

M = TypeVar("M")


async def until_set(stopping: asyncio.Event, stream: AsyncIterator[M]) -> AsyncGenerator[M, None]:
    """Passes a stream on until `stopping` is set, which ends it without an error even while nothing comes.

    The stream itself isn't closed: use `contextlib.aclosing` for both.
    """
    stop = asyncio.ensure_future(stopping.wait())
    upcoming: asyncio.Future[M] | None = None
    try:
        while not stop.done():
            upcoming = asyncio.ensure_future(anext(stream))
            await asyncio.wait({upcoming, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not upcoming.done():
                return
            try:
                message = upcoming.result()
            except StopAsyncIteration:
                return
            yield message
    finally:
        pending = [task for task in (stop, upcoming) if task is not None and not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
