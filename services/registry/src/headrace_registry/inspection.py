"""Finds out what an uploaded file is, by a short-lived process that may be killed at any time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import structlog
from prometheus_client import CollectorRegistry, Histogram

from headrace.registry.v1.manifest_pb2 import TensorSpec
from headrace_common import catalogue
from headrace_common.errors import ModelError
from headrace_common.gguf import GgufHeader
from headrace_registry.artifact_format import unsupported
from headrace_registry.gguf_answer import header_of
from headrace_registry.refusal import Fault

T = TypeVar("T")

_ANSWER_BYTES_MAX = 4 << 20
_TENSORS_MAX = 4_096
_AXES_MAX = 64
_NAME_CHARS_MAX = 1_024
_REASON_CHARS_MAX = 300
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
# Signals that a limit of ours, or the kernel short of memory, ends the process with.
_LIMIT_SIGNALS = frozenset({signal.SIGKILL, signal.SIGXCPU, signal.SIGXFSZ})
_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The tensors of a model in the order of its file."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]


class Inspector:
    """Runs one process a file, a few at a time.

    Args:
        timeout_s: Longest life of a process, and its limit of CPU seconds.
        memory_bytes: Its limit of address space.
        concurrent_max: Processes at once; further files wait.
        registry: Where the metrics go.
    """

    def __init__(
        self, *, timeout_s: float, memory_bytes: int, concurrent_max: int, registry: CollectorRegistry
    ) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._places = asyncio.Semaphore(concurrent_max)
        self._duration = Histogram(
            "headrace_registry_inspection_seconds",
            "Time that the inspection of one file took.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._log = structlog.stdlib.get_logger("inspection")

    async def inspect(self, path: Path, *, file_name: str) -> Signature:
        """The signature of an ONNX file on disk. Cancelling kills the process.

        Args:
            path: The file, readable by this service's user.
            file_name: What the uploader calls it, for failures.

        Raises:
            ModelError: MODEL_FILE_INVALID, MODEL_FORMAT_UNSUPPORTED or MODEL_INSPECTION_LIMIT (INVALID_ARGUMENT).
        """
        return await self._inspect("onnx_inspection", path, file_name, _signature_of)

    async def inspect_gguf(self, path: Path, *, file_name: str) -> GgufHeader:
        """What a GGUF on disk says of its model, without its chat template; otherwise as `inspect`."""
        return await self._inspect("gguf_inspection", path, file_name, header_of)

    async def _inspect(self, program: str, path: Path, file_name: str, read: Callable[[Mapping[str, object]], T]) -> T:
        async with self._places:
            with self._duration.time():
                status, answer = await self._run(program, path)
        if status is None or (status < 0 and -status in _LIMIT_SIGNALS):
            raise self._limit(file_name)
        if status != 0:
            self._log.warning("inspection failed", status=status)
            raise _not_valid(file_name, f"the file '{file_name}' makes its inspection fail")
        # Believes nothing: the process has handled hostile bytes.
        try:
            document = cast("dict[str, object]", json.loads(answer))
            fault = document.get("fault")
            if fault is not None:
                raise self._refused(Fault(fault), str(document.get("subject"))[:_NAME_CHARS_MAX], file_name)
            return read(document)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self._log.warning("inspection answered nonsense", answer_bytes=len(answer))
            raise _not_valid(file_name, f"the file '{file_name}' can't be inspected") from None

    async def _run(self, program: str, path: Path) -> tuple[int | None, bytes]:
        """The exit status (None after the time limit) and what the process printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-B", "-m", f"headrace_registry.{program}"),
            *(os.fspath(path), str(self._memory_bytes), str(math.ceil(self._timeout_s))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # No variable of ours, so no credential; one thread, since a pool of threads has a price in address space.
            env={"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            cwd="/",
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await _read_up_to(process.stdout, _ANSWER_BYTES_MAX)
                return await process.wait(), answer
        except TimeoutError:
            return None, b""
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await asyncio.shield(process.wait())

    def _refused(self, fault: Fault, subject: str, file_name: str) -> ModelError:
        match fault:
            case Fault.OUT_OF_MEMORY:
                return self._limit(file_name)
            case Fault.EXTERNAL_DATA:
                return unsupported(
                    "ONNX with external data",
                    f"the tensor '{subject}' of '{file_name}' lies in another file; "
                    "store the weights inside the ONNX file (external data is not supported)",
                )
            case Fault.OPERATOR_UNKNOWN:
                message = f"the file '{file_name}' uses an operator that ONNX Runtime does not have"
            case Fault.TOO_DEEP:
                message = f"the graphs in '{file_name}' are nested too deeply"
            case Fault.REJECTED:
                message = f"the file '{file_name}' is not a model that ONNX Runtime accepts"
            case Fault.GGUF_INVALID:
                shown = "".join(letter if letter.isprintable() else "?" for letter in subject[:_REASON_CHARS_MAX])
                message = f"the file '{file_name}' {shown}"
            case Fault.NOT_ONNX:
                message = f"the file '{file_name}' is not an ONNX model"
        return _not_valid(file_name, message)

    def _limit(self, file_name: str) -> ModelError:
        return ModelError(
            f"the file '{file_name}' could not be inspected within {self._timeout_s:g} s "
            f"and {self._memory_bytes} bytes of memory",
            entry=catalogue.MODEL_INSPECTION_LIMIT,
            context={"file": file_name, "limit": f"{self._timeout_s:g} s, {self._memory_bytes} bytes"},
        )


async def _read_up_to(stream: asyncio.StreamReader, limit: int) -> bytes:
    """Everything that comes until the end, cut off after `limit` bytes."""
    parts = bytearray()
    while len(parts) <= limit:
        part = await stream.read(1 << 16)
        if not part:
            break
        parts += part
    return bytes(parts)


def _signature_of(document: Mapping[str, object]) -> Signature:
    return Signature(inputs=_tensors(document["inputs"], "input"), outputs=_tensors(document["outputs"], "output"))


def _tensors(value: object, kind: str) -> list[TensorSpec]:
    if not isinstance(value, list) or not 1 <= len(rows := cast("list[object]", value)) <= _TENSORS_MAX:
        raise ValueError("not a list of tensors")
    return [_tensor(row, kind) for row in rows]


def _tensor(row: object, kind: str) -> TensorSpec:
    name, type_name, shape = cast("tuple[object, object, object]", row)
    if not isinstance(name, str) or not isinstance(type_name, str) or not 1 <= len(name) <= _NAME_CHARS_MAX:
        raise ValueError("not a tensor")
    if not isinstance(shape, list) or len(axes := cast("list[object]", shape)) > _AXES_MAX:
        raise ValueError("not a shape")
    datatype = _DATATYPES.get(type_name)
    if datatype is None:
        raise unsupported("ONNX", f"{kind} '{name}' of the model is not a tensor of a datatype that the protocol has")
    return TensorSpec(name=name, datatype=datatype, shape=[_axis(axis) for axis in axes])


def _axis(size: object) -> int:
    """The size of an axis; -1 where it is free."""
    if size is None:
        return -1
    if not isinstance(size, int) or isinstance(size, bool) or size >= 1 << 62:
        raise ValueError("not an axis")
    return max(size, -1)


def _not_valid(file_name: str, message: str) -> ModelError:
    return ModelError(message, entry=catalogue.MODEL_FILE_INVALID, context={"file": file_name})
