"""When a frame leaves: at once where nothing would be gained by waiting, else after so long or so many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, cast

from headrace_common.lanes import FramePacer
from headrace_common.loop_load import LoopLoad

LONGEST_S = 0.004


class StoppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until a test moves it."""

    now = 1_000.0

    def time(self) -> float:
        return self.now


def on_a_stopped_clock(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        with asyncio.Runner(loop_factory=StoppedLoop) as runner:
            runner.run(test())

    return run


class Lane:
    """A pacer on a loop that is as busy as a test says, and what waits on its lane."""

    def __init__(self, *, share: float = 0.0, in_flight: int = 0, answers: bool = False) -> None:
        self.load = LoopLoad()
        self.load.share = share
        self.waiting = 0
        self.in_flight = in_flight
        self.frames = 0
        self.pacer = FramePacer(calls=lambda: (self.waiting, self.in_flight), load=self.load, answers=answers)
        self._loop = cast("StoppedLoop", asyncio.get_running_loop())
        self._writer = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        while True:
            await self.pacer.wait()
            self.frames += 1

    def add(self, calls: int) -> None:
        """So many calls become due."""
        self.waiting += calls
        self.in_flight += calls
        self.pacer.notify()

    async def after(self, seconds: float = 0.0) -> int:
        """Frames that have left by then."""
        self._loop.now += seconds
        for _ in range(4):
            await asyncio.sleep(0)
        return self.frames


@on_a_stopped_clock
async def test_a_call_that_is_alone_leaves_at_once_however_busy_the_loop_is() -> None:
    lane = Lane(share=1.0)
    lane.add(1)
    assert await lane.after() == 1


@on_a_stopped_clock
async def test_an_idle_loop_sends_at_once() -> None:
    lane = Lane(share=0.0, in_flight=50)
    lane.add(1)
    assert await lane.after() == 1


@on_a_stopped_clock
async def test_a_busy_loop_waits_for_company_and_sends_once_for_all() -> None:
    lane = Lane(share=1.0, in_flight=50)
    lane.add(1)
    lane.add(1)
    assert await lane.after(LONGEST_S * 0.9) == 0
    lane.add(1)
    assert await lane.after(LONGEST_S * 0.2) == 1, "the time of the first counts"
    assert await lane.after(LONGEST_S * 5) == 1


@on_a_stopped_clock
async def test_sixteen_calls_are_company_enough() -> None:
    lane = Lane(share=1.0, in_flight=60)
    lane.add(15)
    assert await lane.after() == 0
    lane.add(1)
    assert await lane.after() == 1
    assert await lane.after(LONGEST_S * 2) == 1, "the timer of the first is gone"


@on_a_stopped_clock
async def test_calls_wait_for_others_that_may_come_and_answers_only_for_those_in_flight() -> None:
    for answers, frames in ((False, 0), (True, 1)):
        lane = Lane(share=1.0, answers=answers)
        lane.add(3)
        assert await lane.after() == frames
    lane = Lane(share=1.0, in_flight=1, answers=True)
    lane.add(3)
    assert await lane.after() == 0, "one more is being worked on"
    lane.waiting += 1
    lane.pacer.notify()
    assert await lane.after() == 1


@on_a_stopped_clock
async def test_a_busier_loop_waits_longer() -> None:
    waits: list[float] = []
    for share in (0.0, 0.1, 0.3, 1.0):
        lane = Lane(share=share)
        waits.append(lane.pacer.gather_s)
    assert 0 == waits[0] < waits[1] < waits[2] < waits[3] == LONGEST_S


@on_a_stopped_clock
async def test_a_busy_peer_is_waited_for_but_never_longer_than_ourselves() -> None:
    lane = Lane(share=0.0, in_flight=50)
    lane.pacer.peer_gather_s = 0.002
    lane.add(1)
    assert await lane.after(0.0019) == 0
    assert await lane.after(0.0002) == 1
    lane.pacer.peer_gather_s = 60.0
    lane.add(1)
    assert await lane.after(LONGEST_S * 1.01) == 2


@on_a_stopped_clock
async def test_what_did_not_fit_is_due_again_and_an_empty_lane_is_not() -> None:
    lane = Lane(share=1.0, in_flight=50)
    lane.add(1)
    assert await lane.after(LONGEST_S * 1.01) == 1
    lane.waiting = 0
    lane.pacer.sent()
    assert await lane.after(LONGEST_S * 2) == 1
    lane.waiting = 3
    lane.pacer.sent()
    assert await lane.after() == 1, "like any other it waits for company"
    assert await lane.after(LONGEST_S * 1.01) == 2
