"""Background tasks that can't die unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

T = TypeVar("T")
# Long enough for any end that is only slow: who still cleans up must not be disturbed.
_CANCEL_AGAIN_S = 30.0


class TaskGuard:
    """Owns named background tasks. The first one that dies with an exception resolves `failed`.

    One event loop only. Cancelled tasks, and tasks that return, aren't failures.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failed: asyncio.Future[str] | None = None
        self._log = structlog.stdlib.get_logger("tasks")

    @property
    def failed(self) -> asyncio.Future[str]:
        """Resolves to the name of the first task that died. Await it next to the stop signal."""
        if self._failed is None:
            self._failed = asyncio.get_running_loop().create_future()
        return self._failed

    @property
    def names(self) -> frozenset[str]:
        """The names of the tasks that are running."""
        return frozenset(task.get_name() for task in self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancels every task and waits until all have ended. Safe to call twice.

        A cancel is repeated after a while: before Python 3.12 `asyncio.wait_for`, on which the connection pool rests,
        loses one that comes at the very moment when what it waits for is there.
        """
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            ended, _ = await asyncio.wait(self._tasks, timeout=_CANCEL_AGAIN_S)
            self._tasks.difference_update(ended)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self._log.error("background task died", task=task.get_name(), exc_info=error)
        if not self.failed.done():
            self.failed.set_result(task.get_name())
