"""Moves frames from the pure lane state into a gRPC stream, and lets the parts of a session end together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from headrace_common.loop_load import LoopLoad

_GATHER_MAX_S = 0.004
_GATHER_MIN_S = 0.0001
# A busy loop gets no larger share of a processor that it has to share with others.
_SATURATED = 0.5
_QUORUM = 16


class FramePacer:
    """Decides when the next frame of a stream leaves.

    A frame costs much the same however many calls it carries, at both of its ends. So what is due waits for company,
    until sixteen have gathered, at most for so long as this process or its peer is busy: four milliseconds on an event
    loop that works half of the time, nothing on an idle one. A call that is alone in flight doesn't wait, nor do
    answers when no other call is in flight.
    Source: adaptive interrupt moderation of network cards, which trades the same delay for the same saving.

    Args:
        calls: How many calls wait for a frame now, and how many are in flight, those that wait included.
        load: How busy the event loop is.
        answers: Whether what is sent ends calls, so that nothing can join it once all in flight are here.

    Attributes:
        peer_gather_s: How long the peer would like frames to gather.
    """

    def __init__(self, *, calls: Callable[[], tuple[int, int]], load: LoopLoad, answers: bool) -> None:
        self.peer_gather_s = 0.0
        self._calls = calls
        self._load = load
        self._answers = answers
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def gather_s(self) -> float:
        """How long this process would like frames to gather, its own and its peer's."""
        return _GATHER_MAX_S * min(1.0, self._load.share / _SATURATED) ** 2

    def notify(self) -> None:
        """Something became due."""
        if self._due.is_set():
            return
        waiting, in_flight = self._calls()
        nobody_else = waiting >= in_flight if self._answers else in_flight <= 1
        if nobody_else or waiting >= _QUORUM:
            self._set()
        elif self._timer is None:
            gather_s = min(_GATHER_MAX_S, max(self.gather_s, self.peer_gather_s))
            if gather_s < _GATHER_MIN_S:
                self._set()
            else:
                self._timer = asyncio.get_running_loop().call_later(gather_s, self._set)

    async def wait(self) -> None:
        """Returns when a frame should leave; what becomes due from then on is for the next one."""
        await self._due.wait()
        self._due.clear()

    def sent(self) -> None:
        """A frame has left; what did not fit, or came meanwhile, is due."""
        if self._calls()[0]:
            self.notify()

    def _set(self) -> None:
        self._due.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def write_paced(
    next_frame: Callable[[], bytes | None], write: Callable[[bytes], Awaitable[None]], pacer: FramePacer
) -> None:
    """Writes frames when the pacer says so, until cancelled.

    Args:
        next_frame: Takes the next frame, or None when nothing is due.
        write: Returns when the transport has accepted the frame.
        pacer: Notified by whoever made something due.
    """
    pacer.notify()
    while True:
        await pacer.wait()
        frame = next_frame()
        if frame is not None:
            await write(frame)
            pacer.sent()


async def write_frames(
    next_frame: Callable[[], bytes | None], write: Callable[[bytes], Awaitable[None]], wake: asyncio.Event
) -> None:
    """Writes frames as soon as the transport takes them, until cancelled.

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
