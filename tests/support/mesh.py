"""A whole mesh for tests, started by the command that users start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.processes import Unprivileged, command_as, stop

HEADRACE = Path(sys.executable).with_name("headrace")
_START_TIMEOUT_S = 150.0
_STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class MeshProcess:
    """One process as the ready file lists it."""

    name: str
    pid: int
    metrics: str | None
    grpc: str | None


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A running mesh: where it answers, and what it consists of; `http` is a URL, None without a front."""

    grpc: str
    http: str | None
    api_key: str
    processes: tuple[MeshProcess, ...]
    supervisor: subprocess.Popen[bytes]
    state_dir: Path
    log: Path

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Call metadata that identifies the caller."""
        return (("x-api-key", self.api_key),)

    def current_processes(self) -> dict[str, MeshProcess]:
        """The processes as they are now, restarted ones with their new pids, by name."""
        content = json.loads((self.state_dir / "mesh.json").read_text())
        return {
            process["name"]: MeshProcess(
                name=process["name"], pid=process["pid"], metrics=process["metrics"], grpc=process["grpc"]
            )
            for process in content["processes"]
        }

    def named(self, prefix: str) -> list[MeshProcess]:
        """The processes whose name starts with `prefix`, for example `runner`."""
        return [process for process in self.processes if process.name.startswith(prefix)]


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    # Whole meshes run as users run them: which lines are covered, the tests of the parts tell.
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "COVERAGE_PROCESS_"))
    }
    return {**kept, **extra}


def _ready(supervisor: subprocess.Popen[bytes], ready_file: Path, log: Path) -> dict[str, Any]:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while supervisor.poll() is None and time.monotonic() < give_up_at:
        if ready_file.exists():
            return json.loads(ready_file.read_text())
        time.sleep(0.05)
    said = log.read_text(errors="replace")[-6000:]
    ended = supervisor.poll()
    raise RuntimeError(f"the mesh {'is not ready in time' if ended is None else f'ended with {ended}'}:\n{said}")


@contextmanager
def running_mesh(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None, http: bool = False
) -> Generator[Mesh]:
    """`headrace up` on free ports with its state under `folder`; stopped by SIGTERM afterwards.

    Args:
        folder: An existing folder of this test's own.
        options: Further options of `headrace up`.
        http: Whether an HTTP front is started beside each gateway; most tests have no use for it.
        environment: Variables added to the caller's, from which every HEADRACE_ variable is taken away.

    Raises:
        RuntimeError: The mesh did not become ready; the text ends with what it printed.
        ValueError: Only root may traverse the folder, so the database would be kept, and left, elsewhere.
    """
    if not Unprivileged.current().can_reach(folder / "state"):
        raise ValueError(f"{folder} is not open to every account; make it with support.folders.open_folder")
    ready_file, log = folder / "ready.json", folder / "up.log"
    ports = ["--grpc-port", "0", *(["--http-port", "0"] if http else ["--no-http"])]
    argv = [
        str(HEADRACE),
        "up",
        "--state-dir",
        str(folder / "state"),
        "--ready-file",
        str(ready_file),
        *ports,
        *options,
    ]
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            command_as(Unprivileged(0, 0), argv, death_signal=signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(environment or {}),
        )
    try:
        ready = _ready(supervisor, ready_file, log)
        yield Mesh(
            grpc=ready["grpc"],
            http=ready["http"],
            api_key=ready["api_key"],
            processes=tuple(
                MeshProcess(
                    name=process["name"],
                    pid=process["pid"],
                    metrics=process.get("metrics"),
                    grpc=process.get("grpc"),
                )
                for process in ready["processes"]
            ),
            supervisor=supervisor,
            state_dir=folder / "state",
            log=log,
        )
    finally:
        stop(supervisor, signal.SIGTERM, within_s=_STOP_TIMEOUT_S)
