"""The process that opens one untrusted file: bounded, without credentials, gone afterwards.

`python -I -m headrace_registry.<format>_inspection FILE MEMORY_BYTES CPU_S` prints one JSON object: what the format's
program says, or `fault` and `subject` where the file is refused. Whoever reads it must not trust it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from headrace_registry.refusal import Fault, Refusal

_SET_PARENT_DEATH_SIGNAL = 1
_OPEN_FILES_MAX = 64
_OUT_OF_MEMORY_FIRST = "1000"


def answer_for(inspect: Callable[[Path], Mapping[str, object]]) -> None:
    """Inspects the file named on the command line, within the bounds named there, and prints the answer."""
    path, memory_bytes, cpu_s = sys.argv[1:4]
    _bound(memory_bytes=int(memory_bytes), cpu_s=int(cpu_s))
    try:
        answer = inspect(Path(path))
    except Refusal as refusal:
        answer = {"fault": refusal.fault.value, "subject": refusal.subject}
    except MemoryError:
        answer = {"fault": Fault.OUT_OF_MEMORY.value, "subject": ""}
    sys.stdout.write(json.dumps(answer))


def _bound(*, memory_bytes: int, cpu_s: int) -> None:
    """Gives this process less than its parent has. Ours alone to raise again: nothing untrusted has run yet."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES_MAX, _OPEN_FILES_MAX))
    with suppress(OSError):
        os.nice(10)
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)
        # Where memory runs out, the kernel shall take this process and not the service.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OUT_OF_MEMORY_FIRST)
