"""ONNX models by ONNX Runtime, on the processor or an NVIDIA card."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from threading import Lock, get_ident
from typing import Any

import numpy as np
import structlog

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common import catalogue
from headrace_common.errors import DeviceError, HeadraceError, ModelError, TensorError
from headrace_runner.backends.contract import Availability, BackendHealth, Capabilities, LoadedModel
from headrace_runner.backends.onnxruntime_probe import Probe, open_session, usable_devices
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.parameters import ParameterValue
from headrace_runner.tensors.signature import TensorSpec

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
_ONNX_BFLOAT16 = 16
_FATAL_ONLY = 4


class OnnxRuntimeBackend:
    """Loads `.onnx` files."""

    def __init__(self) -> None:
        self._probe = Probe()

    def available(self) -> Availability:
        try:
            onnxruntime: Any = import_module("onnxruntime")
        except ImportError:
            return Availability((), "the package onnxruntime is not installed")
        return Availability(usable_devices(onnxruntime), version=onnxruntime.__version__)

    def capabilities(self) -> Capabilities:
        return Capabilities(quantization=("int8", "uint8", "int4"), interruption=True)

    def health(self, device_type: str) -> BackendHealth:
        right = self._probe.run(device_type)
        return BackendHealth() if right else BackendHealth(False, "it computes wrong results; restart the runner")

    def load(
        self, artifact_dir: Path, files: Sequence[str], manifest: Manifest, device_type: str, threads: int
    ) -> LoadedModel:
        onnxruntime: Any = import_module("onnxruntime")

        onnxruntime.disable_telemetry_events()
        onnxruntime.set_default_logger_severity(_FATAL_ONLY)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        # Idle threads that spin would take the processor from the other models of this runner.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = artifact_dir / _model_file(files)
        try:
            return OnnxRuntimeModel(session=open_session(onnxruntime, path, options, device_type))
        except HeadraceError:
            raise
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated classes
            structlog.stdlib.get_logger("onnxruntime").warning("load failed", error=str(error))
            raise _load_error(error) from None


class OnnxRuntimeModel:
    """One session of ONNX Runtime; sessions may be run from several threads at once.

    Raises:
        ModelError: MODEL_LOAD_FAILED (FAILED_PRECONDITION): an input or output is no tensor of the protocol, or text
            goes in beside BF16 tensors.
    """

    def __init__(self, *, session: Any) -> None:
        self._session: Any = session
        self._running: dict[int, Any] = {}
        self._interrupting = Lock()
        self._idle_options: list[Any] = []
        self._options_type: Any = import_module("onnxruntime").RunOptions
        self._log = structlog.stdlib.get_logger("onnxruntime")
        self.inputs: Sequence[TensorSpec] = [
            *(_spec(arg, "input") for arg in session.get_inputs()),
            *(_spec(arg, "input", optional=True) for arg in session.get_overridable_initializers()),
        ]
        self.outputs: Sequence[TensorSpec] = [_spec(arg, "output") for arg in session.get_outputs()]
        self._strings = frozenset(spec.name for spec in self.inputs if spec.datatype == "BYTES")
        self._bf16 = frozenset(spec.name for spec in (*self.inputs, *self.outputs) if spec.datatype == "BF16")
        if self._bf16 and self._strings:
            # Only an OrtValue can hold BF16, and only a NumPy array text; one run takes either all or none of them.
            raise ModelError(
                "the model has BYTES inputs and BF16 tensors, which this backend can't have together",
                entry=catalogue.MODEL_LOAD_FAILED,
            )

    @property
    def memory_bytes(self) -> int:
        return 0

    def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], parameters: Mapping[str, ParameterValue]
    ) -> Sequence[Array]:
        feed = {name: _prepared(name, array, name in self._strings) for name, array in inputs.items()}
        # Used again, because making one takes longer than some models.
        try:
            options = self._idle_options.pop()
        except IndexError:
            options = self._new_options()
        thread_id = get_ident()
        self._running[thread_id] = options
        try:
            if self._bf16:
                return self._run_with_values(feed, outputs, options)
            return self._session.run(list(outputs), feed, options)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated classes
            self._log.info("run failed", error=str(error))
            raise _run_error(error) from None
        finally:
            with self._interrupting:
                del self._running[thread_id]
                if not options.terminate:
                    self._idle_options.append(options)

    def interrupt(self, thread_id: int | None = None) -> None:
        # So that none is used again that is about to be interrupted.
        with self._interrupting:
            for thread, options in tuple(self._running.items()):
                if thread_id in (None, thread):
                    options.terminate = True

    def close(self) -> None:
        self._session = None

    def _new_options(self) -> Any:
        options = self._options_type()
        options.log_severity_level = _FATAL_ONLY
        return options

    def _run_with_values(self, feed: Mapping[str, Array], outputs: Sequence[str], options: Any) -> list[Array]:
        """Runs a model with BF16 tensors, which NumPy has no type for."""
        values_of: Any = import_module("onnxruntime").OrtValue

        values = {
            name: values_of.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
            if name in self._bf16
            else values_of.ortvalue_from_numpy(array)
            for name, array in feed.items()
        }
        results: list[Any] = self._session.run_with_ort_values(list(outputs), values, options)
        return [
            _bf16_bits(value) if name in self._bf16 else value.numpy()
            for name, value in zip(outputs, results, strict=True)
        ]


def _model_file(files: Sequence[str]) -> str:
    """The file to open: the only `.onnx` file, or `model.onnx`, or the only file; others are its external data."""
    models = [path for path in files if PurePosixPath(path).suffix == ".onnx"]
    if len(models) != 1:
        models = [path for path in models if PurePosixPath(path).name == "model.onnx"] or list(files)
    if len(models) != 1:
        raise ModelError(
            "the artefact has several files and none of them is model.onnx", entry=catalogue.MODEL_LOAD_FAILED
        )
    return models[0]


def _spec(arg: Any, kind: str, *, optional: bool = False) -> TensorSpec:
    datatype = _DATATYPES.get(arg.type)
    if datatype is None:
        raise ModelError(
            f"{kind} '{arg.name}' is not a tensor of a datatype that the protocol has",
            entry=catalogue.MODEL_LOAD_FAILED,
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in arg.shape)
    return TensorSpec(arg.name, datatype, shape, optional)


def _prepared(name: str, array: Array, strings: bool) -> Array:
    """Text as ONNX Runtime takes it; numbers aligned, because its kernels may rely on that."""
    if not strings:
        return array if array.flags.aligned else array.copy()
    texts = np.empty(array.size, dtype=object)
    for index, element in enumerate(array.reshape(-1)):
        try:
            texts[index] = element.decode()
        except UnicodeDecodeError:
            raise TensorError(
                f"element {index} of input '{name}' is not UTF-8, which this model needs",
                entry=catalogue.TENSOR_ELEMENT_INVALID,
                context={"tensor": name, "datatype": "BYTES"},
            ) from None
    return texts.reshape(array.shape)


def _bf16_bits(value: Any) -> Array:
    """Copies the bit patterns of a BF16 tensor out of ONNX Runtime's memory."""
    shape: tuple[int, ...] = tuple(value.shape())
    size: int = value.tensor_size_in_bytes()
    bits: bytes = ctypes.string_at(value.data_ptr(), size) if size else b""
    flat: Array = np.frombuffer(bits, dtype=np.uint16)
    return flat.reshape(shape)


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "bad allocation" in text or "failed to allocate" in text


def _load_error(error: Exception) -> HeadraceError:
    kind = type(error).__name__
    if _out_of_memory(error):
        return DeviceError("the runner has no memory left to load the model", entry=catalogue.DEVICE_OUT_OF_MEMORY)
    if kind in ("InvalidProtobuf", "InvalidGraph", "InvalidArgument"):
        message = "the file is not an ONNX model that ONNX Runtime accepts"
    elif kind == "NotImplemented":
        message = "the model uses an operator that ONNX Runtime does not have on this device"
    else:
        message = "ONNX Runtime could not load the model"
    return ModelError(message, entry=catalogue.MODEL_LOAD_FAILED)


def _run_error(error: Exception) -> HeadraceError:
    if isinstance(error, HeadraceError):
        return error
    if _out_of_memory(error):
        return DeviceError(
            "the runner has no memory left for this request",
            entry=catalogue.DEVICE_OUT_OF_MEMORY,
            context={"device": "cpu"},
        )
    if type(error).__name__ == "InvalidArgument" and "while running" not in str(error):
        # Refused before any operator ran, so it is the inputs and not the computation.
        return TensorError(
            "the model does not take inputs of these shapes together", entry=catalogue.TENSOR_SHAPE_MISMATCH
        )
    return ModelError("the model failed while it computed this request", entry=catalogue.MODEL_EXECUTION_FAILED)
