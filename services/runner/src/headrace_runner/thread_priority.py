"""Threads that compute only while nobody else wants the processor."""

from __future__ import annotations

import os
import sys


def give_way(thread: int) -> None:
    """Lets a thread run only when a processor has nothing else to do. Nothing happens where threads can't have that.

    A low nice level is not enough: Linux wakes no thread on a processor that a nice one occupies as long as another
    is only shared, so a caller's threads crowd on one. A processor that runs SCHED_IDLE counts as free (`sched(7)`).

    Args:
        thread: Its number in the system (`threading.get_native_id`).

    Raises:
        ProcessLookupError: It has ended.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def gives_way(thread: int) -> bool:
    """Whether a thread runs only when a processor has nothing else to do.

    Raises:
        ProcessLookupError: It has ended.
    """
    return sys.platform == "linux" and os.sched_getscheduler(thread) == os.SCHED_IDLE


def compete(thread: int) -> None:
    """Gives a thread that gave way its equal part again; Linux lets only privileged processes do so.

    Raises:
        PermissionError: The process may not.
        ProcessLookupError: It has ended.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
