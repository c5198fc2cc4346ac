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
