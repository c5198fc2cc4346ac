"""Loads that yield the processor to calls."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_STEPS = 10
_LOWEST = 19
_TASKS = Path("/proc/self/task")


class LoadPriority:
    """Lowers the priority of the thread that loads a model, where the system lets a process raise it again.

    Threads inherit their maker's priority, and those that a backend makes while it loads compute for calls later: they
    are raised again when the model is loaded. Linux lets only a privileged process do so; in others nothing is lowered.
    """

    def __init__(self) -> None:
        self._allowed = _may_raise()

    @contextmanager
    def lowered(self) -> Generator[None]:
        """The calling thread has a low priority inside of the block."""
        if not self._allowed:
            yield
            return
        own = threading.get_native_id()
        usual = os.getpriority(os.PRIO_PROCESS, own)
        low = min(usual + _STEPS, _LOWEST)
        before = _threads()
        os.setpriority(os.PRIO_PROCESS, own, low)
        try:
            yield
        finally:
            for thread in {own} | (_threads() - before):
                _raise(thread, low, usual)


def _threads() -> set[int]:
    return {int(task.name) for task in _TASKS.iterdir()}


def _raise(thread: int, low: int, usual: int) -> None:
    try:
        if os.getpriority(os.PRIO_PROCESS, thread) == low:
            os.setpriority(os.PRIO_PROCESS, thread, usual)
    except ProcessLookupError:
        # It has ended meanwhile.
        return


def _may_raise() -> bool:
    """Tries it, in a thread that nobody needs any more if it fails."""
    if sys.platform != "linux":
        return False
    tried: list[bool] = []

    def try_it() -> None:
        own = threading.get_native_id()
        usual = os.getpriority(os.PRIO_PROCESS, own)
        try:
            os.setpriority(os.PRIO_PROCESS, own, min(usual + 1, _LOWEST))
            os.setpriority(os.PRIO_PROCESS, own, usual)
        except PermissionError:
            return
        tried.append(True)

    thread = threading.Thread(target=try_it, name="priority")
    thread.start()
    thread.join()
    return bool(tried)
