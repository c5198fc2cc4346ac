"""What the long proofs share: a mesh per test, and a report of what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from headrace_common.allocator import collect_garbage_seldom
from inference.open_inference_pb2 import ModelInferRequest
from support.folders import open_folder
from support.mesh import Mesh, running_mesh
from support.real_inputs import FileCase, file_cases
from support.soak import Measured, Tensor

MACHINE = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
REPORT = Path(__file__).parents[2] / "benchmarks" / "soak.md"


@pytest.fixture(scope="session", autouse=True)
def _no_pauses_of_our_own() -> None:
    """Proofs measure latencies in this process, whose collector would stop it for a tenth of a second now and then."""
    collect_garbage_seldom()


@pytest.fixture(scope="session")
def measured() -> Iterator[Measured]:
    """Takes (proof, demand, figures); the report is written when all proofs have run.

    Rows of proofs that did not run this time stay as they are.
    """
    rows: list[tuple[str, str, str]] = []
    yield lambda proof, demand, figures: rows.append((proof, demand, figures))
    if not rows:
        return
    proofs = {proof for proof, _, _ in rows}
    before = [line for line in REPORT.read_text().splitlines() if line.startswith("| ")][1:] if REPORT.exists() else []
    kept = [line for line in before if line.split(" | ")[0].removeprefix("| ") not in proofs]
    lines = [
        "# Soak report",
        "",
        f"Last run of `make soak`: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {MACHINE}. Proofs that were left out of it",
        "keep the figures of their own last run. The machine is shared: read ratios, not times.",
        "",
        "| proof | demand | measured |",
        "|---|---|---|",
        *kept,
        *(f"| {proof} | {demand} | {figures} |" for proof, demand, figures in rows),
        "",
    ]
    REPORT.write_text("\n".join(lines))


@pytest.fixture
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """A mesh of the test's own with two runners; `pytest.mark.parametrize(indirect)` adds options."""
    options: tuple[str, ...] = getattr(request, "param", ())
    with open_folder() as folder:
        with running_mesh(folder, "--runners", "2", *options) as mesh:
            yield mesh
        assert mesh.supervisor.returncode == 0, mesh.log.read_text(errors="replace")[-4000:]


@pytest.fixture(scope="session")
def file_case() -> FileCase:
    """One real file with the answer of magika's model in this process."""
    return file_cases()[0]


@pytest.fixture(scope="session")
def file_request(file_case: FileCase) -> ModelInferRequest:
    """The request that asks the mesh for the type of that file."""
    return ModelInferRequest(
        model_name="magika",
        inputs=[Tensor(name="bytes", datatype="INT32", shape=[1, 2048])],
        raw_input_contents=[file_case.features.astype(np.int32).tobytes()],
    )
