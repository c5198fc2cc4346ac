"""Memory is measured by what is allocated, and goes back to the system only when a lot of it is free."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

MIB = 1 << 20


def told(program: str) -> list[int]:
    """What a program in a process of its own prints: nothing else may allocate meanwhile."""
    script = f"""
        import numpy as np
        from headrace_common.allocator import keep_freed_memory
        from headrace_runner.device import resident_bytes
        from headrace_runner.loading.heap import Heap
        MIB = {MIB}
        keep_freed_memory()
        heap = Heap(memory_bytes=16 << 30)
        {textwrap.indent(textwrap.dedent(program), " " * 8).strip()}
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc tells what its heap holds")


def test_memory_that_is_used_again_is_counted_as_that_of_whoever_uses_it() -> None:
    first, freed, second = told(
        """
        before = heap.used_bytes()
        block = np.ones(100 * MIB, np.uint8)
        print(heap.used_bytes() - before)
        guard = np.ones(MIB, np.uint8)
        del block
        print(heap.used_bytes() - before)
        block = np.ones(80 * MIB, np.uint8)
        print(heap.used_bytes() - before)
        """
    )
    assert 100 * MIB <= first < 105 * MIB
    assert freed < 5 * MIB
    assert 80 * MIB <= second < 90 * MIB


def test_freed_memory_goes_back_at_once_where_no_calls_come_and_only_a_lot_of_it_where_they_do() -> None:
    kept, serving, large, idle, small = told(
        """
        block, guard = np.ones(700 * MIB, np.uint8), np.ones(MIB, np.uint8)
        print(int(heap.give_back(serving=False)))
        del block
        print(int(heap.give_back(serving=True)))
        print(resident_bytes() // MIB)
        print(int(heap.give_back(serving=False)))
        print(resident_bytes() // MIB)
        """
    )
    assert (kept, serving, idle) == (1, 0, 1)
    assert large - small >= 690
