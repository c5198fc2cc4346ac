"""`headrace up` beside a mesh that already runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.folders import open_folder
from support.headrace_command import Headrace
from support.mesh import Mesh

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.fixture
def headrace(mesh: Mesh) -> Headrace:
    return Headrace.of(mesh)


def test_a_second_mesh_on_the_same_folder_is_refused_with_the_pid(headrace: Headrace, mesh: Mesh) -> None:
    refused = headrace.process("up", "--state-dir", str(mesh.state_dir), "--grpc-port", "0", status=1)
    assert f"a mesh already runs on {mesh.state_dir} (process {mesh.supervisor.pid})" in refused.stdout
    assert "magika" in headrace("models", "list").stdout


def test_an_explicit_port_that_is_taken_is_an_error(headrace: Headrace, mesh: Mesh, folder: Path) -> None:
    port = mesh.grpc.rpartition(":")[2]
    refused = headrace.process("up", "--state-dir", str(folder), "--grpc-port", port, status=1)
    assert f"port {port} is taken" in refused.stdout
