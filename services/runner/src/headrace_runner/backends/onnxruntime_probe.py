"""Finds out where ONNX Runtime can compute, and whether it still does."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from headrace_common.wire import encode_len_field, encode_varint_field
from headrace_runner.nvidia import has_cuda_device

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""Execution providers by device type, the preferred one first."""

_FLOAT = 1
_FATAL_ONLY = 4


def usable_devices(onnxruntime: Any) -> tuple[str, ...]:
    """Device types that the installed build has a provider for and this machine a device, most preferred first."""
    built: list[str] = onnxruntime.get_available_providers()
    return tuple(
        device
        for device, provider in PROVIDERS.items()
        if provider in built and (device != "cuda" or has_cuda_device())
    )


def open_session(onnxruntime: Any, model: Any, options: Any, device_type: str) -> Any:
    """A session that computes on the device; operators that it lacks run on the processor.

    Raises:
        RuntimeError: The provider of the device can't be used, for example because its libraries are missing.
    """
    provider = PROVIDERS[device_type]
    if device_type == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        # CUDA and cuDNN come as wheels, where the system's linker doesn't look.
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(model, options, providers=list(dict.fromkeys((provider, PROVIDERS["cpu"]))))
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"ONNX Runtime can't use {provider} here")
    return session


class Probe:
    """Adds two numbers on a device. One thread at a time."""

    def __init__(self) -> None:
        self._session: Any = None

    def run(self, device_type: str) -> bool:
        """Whether the sum is right; blocks for as long as the device takes. Raises what ONNX Runtime raises."""
        if self._session is None:
            onnxruntime: Any = import_module("onnxruntime")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = _FATAL_ONLY
            self._session = open_session(onnxruntime, sum_model(), options, device_type)
        (total,) = self._session.run(None, {"x": np.array([21], np.float32)})
        return float(total[0]) == 42.0


def sum_model() -> bytes:
    """The ONNX model `y = x + x` for one FP32 number."""
    one_number = encode_len_field(
        1,
        encode_varint_field(1, _FLOAT) + encode_len_field(2, encode_len_field(1, encode_varint_field(1, 1))),
    )
    tensors = {name: encode_len_field(1, name) + encode_len_field(2, one_number) for name in (b"x", b"y")}
    node = b"".join(
        (encode_len_field(1, b"x"), encode_len_field(1, b"x"), encode_len_field(2, b"y"), encode_len_field(4, b"Add"))
    )
    graph = b"".join(
        (
            encode_len_field(1, node),
            encode_len_field(2, b"sum"),
            encode_len_field(11, tensors[b"x"]),
            encode_len_field(12, tensors[b"y"]),
        )
    )
    operators = encode_varint_field(2, 13)
    return encode_varint_field(1, 8) + encode_len_field(7, graph) + encode_len_field(8, operators)
