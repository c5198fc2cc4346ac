"""Moves frames from the pure lane state into a gRPC stream, and lets the parts of a session end together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


async def write_frames(
    next_frame: Callable[[], bytes | None], write: Callable[[bytes], Awaitable[None]], wake: asyncio.Event
) -> None:
    """Writes frames as they become due, until cancelled.

    There is no timer: a frame leaves at once when the stream is free, and what gathers while a write waits for the
    transport leaves packed together.

    Args:
        next_frame: Takes the next frame, or None when nothing is due.
        write: Returns when the transport has accepted the frame.
        wake: Set by whoever made something due.
    """
    while True:
        frame = next_frame()
        if frame is not None:
            await write(frame)
            continue
        wake.clear()
        await wake.wait()


async def run_until_one_fails(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs the parts of a session side by side; when one raises, cancels the others and raises what it raised.

    A TaskGroup would not do: of a cancel from outside and a failing part, it lets the failure win.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
