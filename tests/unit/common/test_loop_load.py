"""How busy an event loop says that it is."""

from __future__ import annotations

import asyncio
import hashlib
import time

from headrace_common.loop_load import LoopLoad


async def settled(load: LoopLoad, condition: str) -> bool:
    """Whether the load gets there while the loop does what it does."""
    try:
        async with asyncio.timeout(20):
            while not (load.share > 0.3 if condition == "busy" else load.share < 0.1):
                await asyncio.sleep(0.02)
    except TimeoutError:
        return False
    return True


async def spin() -> None:
    """Computes without end, in slices that leave the loop its turn."""
    while True:
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        await asyncio.sleep(0)


async def test_a_loop_that_never_rests_is_busy_and_is_idle_again_once_it_rests() -> None:
    load = LoopLoad()
    measuring = asyncio.create_task(load.run())
    assert load.share == 0
    spinning = asyncio.create_task(spin())
    assert await settled(load, "busy"), load.share
    assert load.share <= 1
    spinning.cancel()
    assert await settled(load, "idle"), load.share
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
