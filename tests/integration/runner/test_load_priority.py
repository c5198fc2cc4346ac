"""Loading threads yield to calls, and what they leave behind computes at the usual priority."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace_runner.loading.load_priority import LoadPriority

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")


def nice(thread: int = 0) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread or threading.get_native_id())


def test_a_load_has_a_low_priority_and_threads_that_it_makes_the_usual_one_afterwards() -> None:
    leave = threading.Event()
    usual = nice()

    def load() -> tuple[int, int, int, int]:
        with LoadPriority().lowered():
            during = nice()
            made = threading.Thread(target=leave.wait)
            made.start()
            assert made.native_id is not None
            inherited = nice(made.native_id)
        return during, inherited, nice(made.native_id), nice()

    with ThreadPoolExecutor(max_workers=1) as executor:
        try:
            during, inherited, kept, after = executor.submit(load).result()
        finally:
            leave.set()
    assert during == inherited
    assert during == usual + 10 or (os.geteuid() != 0 and during == usual)
    assert (kept, after) == (usual, usual)
    assert nice() == usual


def test_a_load_that_fails_gives_its_priority_back() -> None:
    usual = nice()
    with pytest.raises(ValueError, match="broken"), LoadPriority().lowered():
        raise ValueError("broken")
    assert nice() == usual
