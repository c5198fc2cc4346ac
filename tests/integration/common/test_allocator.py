"""The C library's memory is kept where there is a C library that can be told."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Counts page faults of large copies in a process of its own: the setting is for a whole process.
_PROGRAM = """
import resource, sys
from headrace_common.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
source = bytes(32 << 20)
bytes(bytearray(source))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    bytes(bytearray(source))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, mode], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's mallopt")
def test_large_blocks_are_used_again_without_page_faults() -> None:
    assert faults("keep") * 10 < faults("default")


# What is resident before and after a watch of freed memory has given back what a huge block left.
_GIVES_BACK = """
import asyncio, psutil
from headrace_common.allocator import FreedMemory, keep_freed_memory
assert keep_freed_memory()
async def main():
    seen = 0
    watch = asyncio.create_task(FreedMemory(seen=lambda: seen, quiet_s=0.05).run())
    before = psutil.Process().memory_info().rss
    block = bytearray(b"x") * (64 << 20)
    del block
    kept = psutil.Process().memory_info().rss - before
    seen = 1
    async with asyncio.timeout(10):
        while psutil.Process().memory_info().rss - before > 8 << 20:
            await asyncio.sleep(0.01)
    watch.cancel()
    print(kept >> 20)
asyncio.run(main())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc_trim")
def test_what_huge_messages_left_is_given_back_once_no_more_come() -> None:
    done = subprocess.run([sys.executable, "-c", _GIVES_BACK], check=True, capture_output=True, text=True)
    assert int(done.stdout) >= 60, "it was kept at first"
