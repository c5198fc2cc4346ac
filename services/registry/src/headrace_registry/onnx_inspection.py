"""The program that opens an untrusted ONNX file: `python -I -m headrace_registry.onnx_inspection ...`.

It answers with `inputs` and `outputs`, each a list of `[name, type, shape]` as ONNX Runtime names them, with null for a
free axis.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from headrace_registry.inspection_process import answer_for
from headrace_registry.onnx_walk import check_onnx
from headrace_registry.refusal import Fault, Refusal

_FATAL_ONLY = 4


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


if __name__ == "__main__":
    answer_for(inspect)
