"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


async def merged(sources: Sequence[AsyncGenerator[T, None]], *, at_once: int) -> AsyncGenerator[tuple[int, T], None]:
    """The items of all sources as they come, each with its source's index; the first failure ends them all.

    Args:
        sources: Closed at the end, also those that never began.
        at_once: How many are read at the same time; the others wait for their turn.
    """
    waiting = deque(enumerate(sources))
    reading: dict[asyncio.Future[T], int] = {}
    try:
        while waiting or reading:
            while waiting and len(reading) < at_once:
                index, source = waiting.popleft()
                reading[asyncio.ensure_future(_next(source))] = index
            done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index = reading.pop(task)
                if (item := task.result()) is not _END:
                    yield index, item
                    reading[asyncio.ensure_future(_next(sources[index]))] = index
    finally:
        for task in reading:
            task.cancel()
        if reading:
            await asyncio.wait(reading)
        for source in sources:
            await source.aclose()


async def _next(source: AsyncGenerator[T, None]) -> T:
    return await anext(source, _END)
