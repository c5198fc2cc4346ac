"""Loading threads give way to calls, but not for ever, and what they leave behind competes."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace_runner.loading.load_priority import LoadPriority
from headrace_runner.thread_priority import gives_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
allowed = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="Linux lets only root take it back")


def this_gives_way() -> bool:
    return gives_way(threading.get_native_id())


@allowed
def test_a_load_gives_way_and_threads_that_it_makes_compete_afterwards() -> None:
    leave = threading.Event()

    def load() -> tuple[bool, bool, bool, bool]:
        with LoadPriority().lowered():
            during = this_gives_way()
            made = threading.Thread(target=leave.wait)
            made.start()
            assert made.native_id is not None
            inherited = gives_way(made.native_id)
        return during, inherited, gives_way(made.native_id), this_gives_way()

    with ThreadPoolExecutor(max_workers=1) as executor:
        try:
            assert executor.submit(load).result() == (True, True, False, False)
        finally:
            leave.set()
    assert not this_gives_way()


def test_a_load_that_fails_competes_again() -> None:
    with pytest.raises(ValueError, match="broken"), LoadPriority().lowered():
        raise ValueError("broken")
    assert not this_gives_way()


@allowed
def test_a_load_on_a_machine_without_idle_time_competes_in_the_end() -> None:
    patience_s = 0.5
    began = time.monotonic()
    with LoadPriority(patience_s=patience_s).lowered():
        assert this_gives_way() or time.monotonic() - began > patience_s
        until = time.monotonic() + 30
        while this_gives_way():
            assert time.monotonic() < until, "it never competes"
            time.sleep(0.01)
