"""Streams without an end, and the stop that ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headrace_common.stoppable_stream import until_set


async def counted(count: int, *, then_wait: bool) -> AsyncIterator[int]:
    for number in range(count):
        yield number
    if then_wait:
        await asyncio.Event().wait()


async def test_stream_passes_unchanged_until_its_own_end() -> None:
    assert [number async for number in until_set(asyncio.Event(), counted(3, then_wait=False))] == [0, 1, 2]


async def test_stop_ends_a_stream_that_is_silent() -> None:
    stopping = asyncio.Event()
    before = asyncio.all_tasks()
    passed = until_set(stopping, counted(2, then_wait=True))
    assert [await anext(passed), await anext(passed)] == [0, 1]
    last = asyncio.ensure_future(anext(passed, None))
    await asyncio.sleep(0)
    stopping.set()
    assert await last is None
    assert asyncio.all_tasks() == before


async def test_failure_of_the_stream_reaches_the_reader() -> None:
    async def failing() -> AsyncIterator[int]:
        yield 1
        raise KeyError

    passed = until_set(asyncio.Event(), failing())
    assert await anext(passed) == 1
    with pytest.raises(KeyError):
        await anext(passed)


async def test_reader_that_leaves_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    passed = until_set(asyncio.Event(), counted(1, then_wait=True))
    await anext(passed)
    await passed.aclose()
    assert asyncio.all_tasks() == before
