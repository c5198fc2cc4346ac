"""How busy an event loop says that it is."""

from __future__ import annotations

import asyncio
import hashlib
import time

from headrace_common.loop_load import LoopLoad
from support.eventually import eventually


class Thread:
    """The time of a thread that computes a share of it."""

    def __init__(self) -> None:
        self.share = 1.0
        self._wall_s = self._computed_s = 0.0

    def wall_s(self) -> float:
        self._wall_s += 0.05
        self._computed_s += 0.05 * self.share
        return self._wall_s

    def computed_s(self) -> float:
        return self._computed_s


async def test_a_loop_that_never_rests_is_busy_and_is_idle_again_once_it_rests() -> None:
    thread = Thread()
    load = LoopLoad(wall_s=thread.wall_s, computed_s=thread.computed_s)
    assert load.share == 0
    measuring = asyncio.create_task(load.run())
    await eventually(lambda: 0.9 < load.share <= 1)
    thread.share = 0.25
    await eventually(lambda: abs(load.share - 0.25) < 0.01)
    thread.share = 0.0
    await eventually(lambda: load.share < 0.1)
    measuring.cancel()


async def test_other_threads_do_not_make_the_loop_busy() -> None:
    load = LoopLoad()
    measuring = asyncio.create_task(load.run())

    def compute() -> None:
        # Without the interpreter's lock, so that the loop is free: hashing large buffers releases it.
        until = time.monotonic() + 0.4
        buffer = bytes(1 << 20)
        while time.monotonic() < until:
            hashlib.sha256(buffer)

    await asyncio.to_thread(compute)
    assert load.share < 0.3
    measuring.cancel()
