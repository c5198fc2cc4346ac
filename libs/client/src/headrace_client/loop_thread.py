"""An event loop in a thread of its own, for callers who block."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from headrace_client.errors import CallCancelled

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads; any number of them at once.

    A forked child has no such thread, and is told so: make clients after the fork.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        # Reentrant: the garbage collector may close an iteration anywhere.
        self._hand_over = threading.RLock()
        self._stopping = False
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
            self._check_process()
            with self._hand_over:
                self._check_open()
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        except CallCancelled:
            work.close()
            raise

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call it soon, after what was to be called before.

        Raises:
            CallCancelled: the thread has been stopped.
        """
        self._check_process()
        with self._hand_over:
            self._check_open()
            self._loop.call_soon_threadsafe(function, *arguments)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for its end. An interrupt (Ctrl-C) cancels it.

        Raises:
            CallCancelled: the thread has been stopped, before or meanwhile.
            RuntimeError: this is the thread itself.
        """
        try:
            self.check_may_wait()
        except RuntimeError:
            work.close()
            raise
        future = self.submit(work)
        try:
            return future.result()
        except CancelledError:
            raise CallCancelled("the client was closed before the answer came") from None
        except BaseException:
            future.cancel()
            raise

    def check_may_wait(self) -> None:
        """Refuses a call that would wait for the thread on the thread itself, for ever.

        Raises:
            RuntimeError: this is the thread itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a blocking call from a callback of the same client: its thread can't wait for itself; "
                "hand the work to another thread"
            )

    def iterate(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """The items one after another, each awaited when it is asked for; leaving the loop closes the source."""
        # A step that was interrupted has to end before the source can be closed.
        turn = asyncio.Lock()

        async def following() -> T:
            async with turn:
                return await anext(items)

        async def closing() -> None:
            async with turn:
                await items.aclose()

        try:
            while True:
                try:
                    item = self.run(following())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if self.is_running:
                self.run(closing())

    def stop(self) -> None:
        """Cancel what still runs, and end the thread. May be repeated."""
        with self._hand_over:
            stops, self._stopping = self.is_running and not self._stopping, True
            if stops:
                # Comes after all that was handed over, so nothing of it is forgotten.
                self._loop.call_soon_threadsafe(self._loop.stop)
        if self.is_running:
            self._thread.join()

    def _check_process(self) -> None:
        # Before the lock: a fork may have copied it while it was held.
        if self._process != os.getpid():
            raise CallCancelled("the client was made before a fork; a child process needs a client of its own")

    def _check_open(self) -> None:
        if self._stopping or not self.is_running:
            raise CallCancelled("the client is closed")

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
