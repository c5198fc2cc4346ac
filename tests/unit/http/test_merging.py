"""Several streams are read as one, each at its own pace, and all end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from headrace_gateway.http.merging import merged


class Source:
    """Numbers up to a count, then a failure where there is one."""

    def __init__(self, count: int, *, fails: bool = False, waits: bool = False) -> None:
        self.begun = False
        self.closed = False
        self._count = count
        self._fails = fails
        self._waits = waits

    async def read(self) -> AsyncGenerator[int, None]:
        self.begun = True
        try:
            for number in range(self._count):
                await asyncio.sleep(0)
                yield number
            if self._waits:
                await asyncio.Event().wait()
            if self._fails:
                raise LookupError
        finally:
            self.closed = True


async def test_every_item_comes_once_and_each_source_in_its_order() -> None:
    sources = [Source(count) for count in (3, 0, 5, 1)]
    items = [item async for item in merged([source.read() for source in sources], at_once=2)]
    for index, count in enumerate((3, 0, 5, 1)):
        assert [number for source, number in items if source == index] == list(range(count))
    assert all(source.closed for source in sources)


async def test_only_so_many_are_read_at_once() -> None:
    sources = [Source(1, waits=True) for _ in range(5)]
    async with aclosing(merged([source.read() for source in sources], at_once=2)) as items:
        assert {await anext(items), await anext(items)} == {(0, 0), (1, 0)}
        assert [source.begun for source in sources] == [True, True, False, False, False]
    assert [source.closed for source in sources[:2]] == [True, True]


async def test_a_failure_ends_them_all() -> None:
    sources = [Source(1, waits=True), Source(2, fails=True), Source(1)]
    with pytest.raises(LookupError):
        async for _ in merged([source.read() for source in sources], at_once=3):
            pass
    assert all(source.closed for source in sources)
