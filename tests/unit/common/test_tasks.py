"""Background tasks that die are noticed; closing leaves none."""

from __future__ import annotations

import asyncio

import pytest

from headrace_common.tasks import TaskGuard


async def test_a_task_that_dies_is_named() -> None:
    async def dies() -> None:
        raise RuntimeError("boom")

    async with TaskGuard() as guard:
        guard.spawn(asyncio.Event().wait(), name="lives")
        guard.spawn(dies(), name="dies")
        assert await guard.failed == "dies"
        assert guard.names == {"lives"}


async def test_tasks_that_return_or_are_cancelled_are_no_failure() -> None:
    async def returns() -> int:
        return 7

    async with TaskGuard() as guard:
        assert await guard.spawn(returns(), name="returns") == 7
        waiting = guard.spawn(asyncio.Event().wait(), name="waits")
        waiting.cancel()
        await asyncio.wait({waiting})
        assert not guard.failed.done()
        assert guard.names == frozenset()


async def test_closing_waits_for_cleanup_and_for_tasks_spawned_meanwhile() -> None:
    guard = TaskGuard()
    cleaned: list[str] = []

    async def late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("late")

    async def cleans() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            guard.spawn(late(), name="late")
            await asyncio.sleep(0)
            cleaned.append("first")

    guard.spawn(cleans(), name="cleans")
    await asyncio.sleep(0)
    await guard.close()
    assert cleaned == ["first", "late"]
    assert guard.names == frozenset()
    await guard.close()


async def test_only_the_first_death_is_reported() -> None:
    async def dies(number: int) -> None:
        raise RuntimeError(str(number))

    async with TaskGuard() as guard:
        tasks = [guard.spawn(dies(number), name=f"t{number}") for number in range(3)]
        await asyncio.wait(tasks)
        assert await guard.failed == "t0"


async def test_a_block_that_raises_still_ends_its_tasks() -> None:
    ended = asyncio.Event()

    async def runs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def block() -> None:
        async with TaskGuard() as guard:
            guard.spawn(runs(), name="runs")
            await asyncio.sleep(0)
            raise LookupError

    with pytest.raises(LookupError):
        await block()
    assert ended.is_set()


async def test_close_repeats_a_cancel_that_was_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_common.tasks._CANCEL_AGAIN_S", 0.01)
    guard = TaskGuard()
    swallowed = 0

    async def deaf() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    guard.spawn(deaf(), name="deaf")
    await asyncio.sleep(0)
    await guard.close()
    assert (swallowed, guard.names) == (2, frozenset())
