"""A model's process counts for its tenant, and gives way while that has had more than its part."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_runner.execution.generation.process_share import ProcessShare
from headrace_runner.execution.tenant_use import TenantUse
from headrace_runner.other_process import computed_by
from headrace_runner.thread_priority import gives_way
from support.eventually import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
allowed = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="Linux lets only root take it back")

_COMPUTES = "import threading; threading.Thread(target=input).start(); print(flush=True)\nwhile True: pass"


@pytest.fixture
def process() -> Iterator[int]:
    """One that computes, with two threads."""
    with subprocess.Popen([sys.executable, "-c", _COMPUTES], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
        child.kill()


def priorities(process: int) -> list[bool]:
    return [gives_way(int(thread.name)) for thread in Path(f"/proc/{process}/task").iterdir()]


def shared(use: TenantUse, process: int, *, may_compete_again: bool = True) -> ProcessShare:
    return ProcessShare(
        tenant_id="a", use=use, process_id=lambda: process, threads=1, may_compete_again=may_compete_again
    )


async def test_what_a_process_computes_counts_for_its_tenant(process: int) -> None:
    use = TenantUse()
    share = shared(use, process, may_compete_again=False)
    share.look(0.0)
    before_s = computed_by(process)
    await eventually(lambda: computed_by(process) > before_s + 0.3)
    use.used("b", 0.1, 1.0)
    assert not use.is_above("a", 1.0)
    share.look(1.0)
    assert use.is_above("a", 1.0)
    assert priorities(process) == [False, False], "it could not be taken back"


@allowed
def test_a_process_gives_way_while_its_tenant_is_above_its_part_and_others_compute(process: int) -> None:
    use = TenantUse()
    share = shared(use, process)
    use.used("a", 10.0, 0.0)
    share.look(0.0)
    assert priorities(process) == [False, False], "nobody else computes"
    use.used("b", 1.0, 0.0)
    share.look(1.0)
    assert priorities(process) == [True, True]
    use.used("b", 10.0, 2.0)
    share.look(2.0)
    assert priorities(process) == [False, False]
    use.used("a", 50.0, 3.0)
    share.look(3.0)
    assert priorities(process) == [True, True]
    share.rest()
    assert priorities(process) == [False, False]
