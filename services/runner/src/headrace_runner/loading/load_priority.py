"""Loads that yield the processor to calls."""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace_runner.thread_priority import compete, give_way, gives_way

_TASKS = Path("/proc/self/task")


class LoadPriority:
    """Lets the thread that loads a model give way to calls, where the system lets a process take that back.

    Threads inherit this from their maker, and those that a backend makes while it loads compute for calls later: it is
    taken back when the model is loaded. Linux lets only a privileged process do so; in others no load gives way.

    Args:
        patience_s: How long a load gives way at most. On a machine without idle time it would never end otherwise.

    Attributes:
        allowed: Whether the system lets this process take giving way back.
    """

    def __init__(self, *, patience_s: float = 10.0) -> None:
        self._patience_s = patience_s
        self.allowed = _may_compete_again()

    @contextmanager
    def lowered(self) -> Generator[None]:
        """The calling thread gives way inside of the block."""
        if not self.allowed:
            yield
            return
        own = threading.get_native_id()
        before = _threads()

        def compete_again() -> None:
            for thread in {own} | (_threads() - before):
                _compete(thread)

        impatient = threading.Timer(self._patience_s, compete_again)
        impatient.daemon = True
        impatient.start()
        give_way(own)
        try:
            yield
        finally:
            impatient.cancel()
            compete_again()


def _threads() -> set[int]:
    return {int(task.name) for task in _TASKS.iterdir()}


def _compete(thread: int) -> None:
    # It may have ended meanwhile.
    with suppress(ProcessLookupError):
        if gives_way(thread):
            compete(thread)


def _may_compete_again() -> bool:
    """Tries it, in a thread that nobody needs any more if it fails."""
    if sys.platform != "linux":
        return False
    tried: list[bool] = []

    def try_it() -> None:
        own = threading.get_native_id()
        with suppress(PermissionError):
            give_way(own)
            compete(own)
            tried.append(True)

    thread = threading.Thread(target=try_it, name="priority")
    thread.start()
    thread.join()
    return bool(tried)
