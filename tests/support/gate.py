"""Executions of ONNX models that end when a test says so, however busy the machine is."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from headrace_runner.backends.onnxruntime import OnnxRuntimeModel

_HELD_MAX_S = 60.0


class Gate:
    """Open at first; while it is shut, executions that begin in this process wait in front of it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()

    def shut(self) -> None:
        """Holds executions from now on."""
        self._open.clear()

    def open(self) -> None:
        """Lets all go on."""
        self._open.set()

    def wait(self) -> None:
        """Returns when it is open, or where a test has failed and forgotten it."""
        self._open.wait(_HELD_MAX_S)


@contextmanager
def gated() -> Generator[Gate]:
    """A gate in front of every execution of an ONNX model."""
    gate = Gate()
    infer = OnnxRuntimeModel.infer

    def waiting(model: OnnxRuntimeModel, *request: Any) -> Any:
        gate.wait()
        return infer(model, *request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRuntimeModel, "infer", waiting)
        try:
            yield gate
        finally:
            gate.open()
