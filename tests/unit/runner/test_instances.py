"""Threads of a replica: of usual and of lower priority, kept for the next run, given up when they don't end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from headrace_runner.execution.instances import Instances
from headrace_runner.thread_priority import gives_way


class Work:
    """A run that notes which thread executed it, whether it gives way, and that ends when it is told to."""

    def __init__(self, *, ends: bool = True) -> None:
        self.may_end = threading.Event()
        self.seen: SimpleQueue[tuple[int, bool]] = SimpleQueue()
        if ends:
            self.may_end.set()

    def run(self) -> None:
        self.seen.put((threading.get_ident(), gives_way(threading.get_native_id())))
        self.may_end.wait(30)


@pytest.fixture
def instances() -> Iterator[Instances[Work]]:
    pool: Instances[Work] = Instances(name="m", execute=Work.run)
    yield pool
    pool.stop()
    pool.join()


def executed(instances: Instances[Work], *, background: bool = False) -> tuple[int, bool]:
    work = Work()
    instances.submit(work, background=background)
    seen = work.seen.get(timeout=30)
    instances.ended(work)
    return seen


def test_a_thread_is_used_again(instances: Instances[Work]) -> None:
    assert len({executed(instances) for _ in range(5)}) == 1


def test_runs_in_the_background_have_threads_of_their_own(instances: Instances[Work]) -> None:
    usual, lower = executed(instances), executed(instances, background=True)
    assert usual[0] != lower[0]
    assert executed(instances) == usual, "the usual thread competes on"
    assert (usual[1], lower[1]) == (False, sys.platform == "linux")


def test_a_thread_that_is_given_up_is_replaced_and_only_a_few_are(instances: Instances[Work]) -> None:
    stuck = [Work(ends=False) for _ in range(9)]
    for work in stuck:
        instances.submit(work, background=False)
        work.seen.get(timeout=30)
    assert [instances.replace(work) for work in stuck] == [True] * 8 + [False]
    assert executed(instances)[0] != instances.thread_of(stuck[8])
    for work in stuck:
        work.may_end.set()
    instances.ended(stuck[8])
