"""The process that opens an untrusted ONNX file: bounded, without credentials, gone after one file.

`python -I -m headrace_registry.onnx_inspection FILE MEMORY_BYTES CPU_S` prints one JSON object: `inputs` and
`outputs`, each a list of `[name, type, shape]` as ONNX Runtime names them with null for a free axis, or `fault` and
`subject` where the file is refused. Whoever reads it must not trust it.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from headrace_registry.onnx_walk import Fault, Refusal, check_onnx

_SET_PARENT_DEATH_SIGNAL = 1
_FATAL_ONLY = 4
_OPEN_FILES_MAX = 64
_OUT_OF_MEMORY_FIRST = "1000"


def inspect(path: Path) -> Mapping[str, object]:
    """What ONNX Runtime says about a file, once a walk has shown that it refers to no other.

    Raises:
        Refusal: the file isn't a model that can be served.
    """
    with path.open("rb") as file:
        # Never closed: slices of it live on in the traceback of a refusal, and the process ends soon.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    check_onnx(memoryview(mapped))
    onnxruntime: Any = import_module("onnxruntime")
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated classes
        raise Refusal(_fault(error)) from None
    return {
        "inputs": [_described(value) for value in session.get_inputs()],
        "outputs": [_described(value) for value in session.get_outputs()],
    }


def _described(value: Any) -> tuple[str, str, list[int | None]]:
    return value.name, value.type, [axis if isinstance(axis, int) else None for axis in value.shape or ()]


def _fault(error: Exception) -> Fault:
    if isinstance(error, MemoryError) or "alloc" in str(error).lower():
        return Fault.OUT_OF_MEMORY
    return Fault.OPERATOR_UNKNOWN if type(error).__name__ == "NotImplemented" else Fault.REJECTED


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


def main() -> None:
    """Inspects the file named on the command line."""
    path, memory_bytes, cpu_s = sys.argv[1:4]
    _bound(memory_bytes=int(memory_bytes), cpu_s=int(cpu_s))
    try:
        answer = inspect(Path(path))
    except Refusal as refusal:
        answer = {"fault": refusal.fault.value, "subject": refusal.subject}
    except MemoryError:
        answer = {"fault": Fault.OUT_OF_MEMORY.value, "subject": ""}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
