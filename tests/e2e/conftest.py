"""The mesh that end-to-end tests share; a test that breaks things starts one of its own with `running_mesh`."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from support.folders import open_folder
from support.mesh import Mesh, running_mesh


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """A mesh with the sample models and an HTTP front; its supervisor must end well when it is told to."""
    with open_folder() as folder:
        with running_mesh(folder, http=True) as running:
            yield running
        assert running.supervisor.returncode == 0, running.log.read_text(errors="replace")[-6000:]


@pytest.fixture
def channel(mesh: Mesh) -> Iterator[grpc.Channel]:
    """A channel to the shared mesh's gateway."""
    with grpc.insecure_channel(mesh.grpc) as channel:
        yield channel
