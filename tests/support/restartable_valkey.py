"""A Valkey server that a test can kill and start again at the same address, empty."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager

import redis

from support.processes import HeldPort, Unprivileged, command_as, stop
from support.valkey import _server_binary as server_binary  # pyright: ignore[reportPrivateUsage]
from support.valkey import _wait_until_serving as wait_until_serving  # pyright: ignore[reportPrivateUsage]


class RestartableValkey:
    """One server on one port of its own, without persistence: each start finds it empty."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._port = HeldPort()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://{self._port.address}/0"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = ["--port", str(self._port.number), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            command_as(Unprivileged(0, 0), [str(server_binary()), *options, "--dir", self._folder]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if not wait_until_serving(self._process, self._port.number):
            raise RuntimeError("valkey-server did not start")

    def kill(self) -> None:
        """Ends the server without a word; all it knew is gone."""
        if self._process is not None:
            stop(self._process, signal.SIGKILL)
            self._process = None

    def empty(self) -> None:
        """Makes it forget everything."""
        with redis.Redis.from_url(self.url) as client:  # pyright: ignore[reportUnknownMemberType]
            client.flushall()  # pyright: ignore[reportUnknownMemberType]

    def close(self) -> None:
        """Ends the server for good."""
        self.kill()
        self._port.close()


@contextmanager
def restartable_valkey() -> Generator[RestartableValkey]:
    """A server that isn't started yet."""
    with tempfile.TemporaryDirectory(prefix="headrace-test-valkey-") as folder:
        server = RestartableValkey(folder)
        try:
            yield server
        finally:
            server.close()
