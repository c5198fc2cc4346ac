"""A backend whose model does what its input says: the right thing, or one of the wrong ones, when a test lets it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_runner.backends.contract import Availability
from headrace_runner.tensors.datatypes import Array
from headrace_runner.tensors.parameters import ParameterValue
from headrace_runner.tensors.signature import TensorSpec

RIGHT, RAISES, HANGS, ALLOCATES, CRASHES, GIVES_NOTHING = range(6)
GATE = "FAULTY_BACKEND_GATE"
"""Names a file: while it is there, executions in processes with this variable wait."""


class FaultyModel:
    """`z = x`, INT64 of one element, unless x is the number of a fault. It can't be interrupted."""

    inputs: Sequence[TensorSpec] = (TensorSpec("x", "INT64", (1,), False),)
    outputs: Sequence[TensorSpec] = (TensorSpec("z", "INT64", (1,), False),)
    memory_bytes = 1

    def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], parameters: Mapping[str, ParameterValue]
    ) -> Sequence[Array]:
        gate = os.environ.get(GATE)
        while gate and os.path.exists(gate):  # noqa: PTH110 - asked often
            time.sleep(0.005)
        fault = int(inputs["x"][0])
        if fault == RAISES:
            raise RuntimeError("/secret/path of the model")
        while fault == HANGS:
            time.sleep(1)
        if fault == ALLOCATES:
            np.ones(1 << 55, np.uint8)
        if fault == CRASHES:
            os.abort()
        return [] if fault == GIVES_NOTHING else [np.array(inputs["x"])]

    def close(self) -> None:
        return


class FaultyBackend:
    """Loads whatever it is given."""

    def available(self) -> Availability:
        return Availability(("cpu",))

    def load(
        self, artifact_dir: Path, files: Sequence[str], manifest: Manifest, device_type: str, threads: int
    ) -> FaultyModel:
        return FaultyModel()


def install(folder: Path) -> str:
    """Makes a package of it in `folder`; returns the PYTHONPATH with which a process has it installed."""
    information = folder / "faulty_backend-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-backend\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[headrace.backends]\nfaulty = support.faulty_backend:FaultyBackend\n"
    )
    return os.pathsep.join((str(folder), str(Path(__file__).parents[1])))
