"""A backend whose models never finish, for what the runner must survive."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_runner.backends.contract import Availability
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.parameters import ParameterValue
from headrace_runner.tensors.signature import TensorSpec


class StuckModel:
    """`z = x` (FP32 of 1 element) once `released`, only the warm-up is quick. It can't be interrupted."""

    inputs: Sequence[TensorSpec] = (TensorSpec("x", "FP32", (1,), False),)
    outputs: Sequence[TensorSpec] = (TensorSpec("z", "FP32", (1,), False),)
    memory_bytes = 1

    def __init__(self, *, released: threading.Event) -> None:
        self._released = released
        self._warm = False
        self.closed = threading.Event()

    def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], parameters: Mapping[str, ParameterValue]
    ) -> Sequence[Array]:
        if self._warm:
            self._released.wait()
        self._warm = True
        return [np.array(inputs["x"])]

    def close(self) -> None:
        self.closed.set()


class StuckBackend:
    """Loads `StuckModel`s.

    Args:
        loads: Whether loading ends before `released` is set.

    Attributes:
        released: Lets everything go on.
        models: What was loaded.
        begun: Loads that were begun.
    """

    def __init__(self, *, loads: bool = True) -> None:
        self._loads = loads
        self.released = threading.Event()
        self.models: list[StuckModel] = []
        self.begun = 0

    def available(self) -> Availability:
        return Availability(("cpu",))

    def load(
        self, artifact_dir: Path, files: Sequence[str], manifest: Manifest, device_type: str, threads: int
    ) -> StuckModel:
        self.begun += 1
        if not self._loads:
            self.released.wait()
        model = StuckModel(released=self.released)
        self.models.append(model)
        return model
