"""The thread that loads models, replaced when a load does not end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class LoadThread:
    """Runs blocking loads, each within a time limit. Event loop only, but for what runs in the thread.

    Native code can't be killed: a load that is given up keeps its thread until it ends by itself. The same load is not
    begun again before that, so one bad model costs one thread however often it is wanted.

    Args:
        timeout_s: How long one load may take.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._executor = _new_executor()
        self._given_up: set[Hashable] = set()

    async def run(self, key: Hashable, load: Callable[[], T], discard: Callable[[T], None]) -> T:
        """Runs `load` in the thread.

        Args:
            key: What is loaded.
            load: Blocks.
            discard: Frees a result that comes after nobody waits for it any more; called in the thread.

        Raises:
            TimeoutError: The load took too long, or an earlier one of the same key still has not ended.
        """
        if key in self._given_up:
            raise TimeoutError
        loading = self._executor.submit(load)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(loading)
        except (TimeoutError, asyncio.CancelledError):
            self._give_up(key, loading, discard)
            raise

    def close(self) -> None:
        """Takes no more loads; one that runs is not waited for."""
        self._executor.shutdown(wait=False)

    def _give_up(self, key: Hashable, loading: Future[T], discard: Callable[[T], None]) -> None:
        self._given_up.add(key)

        def ended(done: Future[T]) -> None:
            self._given_up.discard(key)
            if not done.cancelled() and done.exception() is None:
                discard(done.result())

        self._executor.shutdown(wait=False)
        self._executor = _new_executor()
        loading.add_done_callback(ended)


def _new_executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
