"""Two gateways behind one port, for tests of what they have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.folders import open_folder
from support.mesh import Mesh, running_mesh


@pytest.fixture(scope="package")
def twins() -> Iterator[Mesh]:
    """Two runners, `magika` in both of them from the start, and models whose calls wait for a second get replicas."""
    environment = {"HEADRACE_GATEWAY_PREWARM": "community/magika", "HEADRACE_GATEWAY_SCALE_UP_AFTER_S": "1"}
    with open_folder() as folder:
        with running_mesh(folder, "--runners", "2", "--gateways", "2", environment=environment) as running:
            yield running
        assert running.supervisor.returncode == 0, running.log.read_text(errors="replace")[-6000:]
