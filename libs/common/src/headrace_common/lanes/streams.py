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


async def run_until_one_ends(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs endless parts; the first that raises cancels the others, and what it raised is raised.

    A cancel from outside wins over what the parts raise while they are being cancelled: a TaskGroup alone would
    swallow it then.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as errors:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise errors.exceptions[0] from None
