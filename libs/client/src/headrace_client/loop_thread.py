"""An event loop in a thread of its own, for callers who block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from headrace_client.errors import CallCancelled

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads; any number of them at once.

    A forked child has no such thread: make clients after the fork.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="headrace-client", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start it; cancelling the future cancels it.

        Raises:
            CallCancelled: the thread has been stopped.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise CallCancelled("the client is closed") from None

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call it soon, after what was to be called before.

        Raises:
            CallCancelled: the thread has been stopped.
        """
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            raise CallCancelled("the client is closed") from None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for its end. An interrupt (Ctrl-C) cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """The items one after another, each awaited when it is asked for; leaving the loop closes the source."""

        async def following() -> T:
            return await anext(items)

        try:
            while True:
                try:
                    item = self.run(following())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if self.is_running:
                self.run(items.aclose())

    def stop(self) -> None:
        """Cancel what still runs, and end the thread. May be repeated."""
        if self.is_running:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
