"""Runs the completions of one call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


async def side_by_side(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs the parts until all have ended; when one raises, or this is cancelled, the others are cancelled.

    Each is cancelled at most once, and waited for however often this is cancelled meanwhile: what it holds is free
    only when it has ended.

    Raises:
        Exception: What the first part to fail raised.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        while not all(task.done() for task in tasks):
            with suppress(asyncio.CancelledError):
                await asyncio.wait(tasks)
    for task in done:
        task.result()
