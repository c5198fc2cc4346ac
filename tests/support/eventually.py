"""Waiting for a state that another task, thread or process brings about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Returns as soon as the condition holds; raises TimeoutError where it doesn't in time."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
