"""Moves frames from the pure lane state into a gRPC stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


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
