"""Runners as processes behind a gateway of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from support.gateway import Backends, FrontDoor
from support.processes import Unprivileged, command_as, stop


@contextmanager
def running_runner(
    backends: Backends, door: FrontDoor, folder: Path, name: str = "runner-0"
) -> Generator[subprocess.Popen[bytes]]:
    """A runner that dials the gateway behind `door`; stopped at the end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    environment = {
        **kept,
        "HEADRACE_RUNNER_NAME": name,
        "HEADRACE_RUNNER_GATEWAYS": door.gateway.mesh_address,
        "HEADRACE_RUNNER_REGISTRY_ADDRESS": backends.registry.address,
        "HEADRACE_RUNNER_CACHE_DIR": str(folder / "cache"),
        "HEADRACE_STATE_DIR": str(folder / "state"),
        # The gateway is on the loop that waits for the runner's end, so neither hears the other's farewell.
        "HEADRACE_SHUTDOWN_GRACE_S": "0.2",
    }
    argv = command_as(Unprivileged(0, 0), [sys.executable, "-m", "headrace_runner"])
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        stop(process, signal.SIGTERM)
