"""The SDK and tritonclient in one process: both define `inference.*`, which one descriptor pool could not hold."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from support.mesh import Mesh
from support.real_inputs import REPOSITORY, FileCase

PYTHON = REPOSITORY / ".venv-triton" / "bin" / "python"
SCRIPT = REPOSITORY / "tests" / "clients" / "triton" / "beside_sdk.py"
SDK = REPOSITORY / "libs" / "client" / "src"
FILES = 8


@pytest.mark.parametrize("first", ["triton", "headrace"])
def test_both_clients_work_in_one_process_whichever_comes_first(
    first: str, mesh: Mesh, file_features: NDArray[np.int32], file_cases: list[FileCase], tmp_path: Path
) -> None:
    if not PYTHON.exists():
        pytest.fail("tritonclient's environment is missing: run `make setup-triton`")
    inputs, outputs = tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    np.savez(inputs, features=file_features[:FILES])
    done = subprocess.run(
        [PYTHON, SCRIPT, mesh.grpc, mesh.api_key, inputs, outputs, first],
        env={**os.environ, "PYTHONPATH": str(SDK)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    expected = np.stack([case.scores for case in file_cases[:FILES]])
    with np.load(outputs) as answers:
        for client in ("triton", "headrace", "stream"):
            np.testing.assert_allclose(answers[client][:, 0], expected, rtol=0, atol=1e-5, err_msg=client)
