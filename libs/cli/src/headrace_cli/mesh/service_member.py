"""A Headrace service as a member of the mesh: chooses its own ports the first time and keeps them afterwards."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from headrace_cli.mesh.member import Endpoints
from headrace_cli.mesh.plan import Environment, Listener, address
from headrace_cli.mesh.ports import PortChoice, is_free
from headrace_cli.mesh.process import MeshProcess, ProcessSpec, StopStep

_POLL_S = 0.03


class ServiceMember:
    """One process of a service, started as `python -m MODULE`."""

    def __init__(
        self,
        *,
        name: str,
        module: str,
        environment: Callable[[], Environment],
        listeners: Mapping[Listener, PortChoice],
        state: Path,
        ready_file: Path,
        log: Path,
        orderly_exit: str,
        stop_steps: tuple[StopStep, ...],
    ) -> None:
        """`environment` is asked at each start, because it names addresses that are known only by then."""
        self.name = name
        self._module = module
        self._environment = environment
        self._listeners = listeners
        self._state = state
        self._ready_file = ready_file
        self._log = log
        self._orderly_exit = orderly_exit
        self._stop_steps = stop_steps
        self._endpoints = Endpoints()

    @property
    def endpoints(self) -> Endpoints:
        """Where it listens, as it said itself."""
        return self._endpoints

    async def prepare(self) -> None:
        """Forget where the process before this one served."""
        self._ready_file.unlink(missing_ok=True)
        self._state.mkdir(mode=0o700, exist_ok=True)

    def spec(self) -> ProcessSpec:
        """Run the service with its addresses: those it had before, else the chosen ones while they are free."""
        addresses = {listener.variable: self._address(listener, choice) for listener, choice in self._listeners.items()}
        return ProcessSpec(
            name=self.name,
            # -P: the folder it runs in is not a place to import from.
            command=(sys.executable, "-P", "-m", self._module),
            environment={**self._environment(), **addresses},
            log=self._log,
            folder=self._state,
            orderly_exit=self._orderly_exit,
            stop_steps=self._stop_steps,
        )

    async def serving(self, process: MeshProcess) -> None:
        """Wait for its ready file, which it writes once it serves."""
        while True:
            content = _read(self._ready_file)
            if content is not None:
                break
            await asyncio.sleep(_POLL_S)
        self._endpoints = Endpoints(**{field.name: content.get(field.name) for field in fields(Endpoints)})

    def _address(self, listener: Listener, choice: PortChoice) -> str:
        bound = cast("str | None", getattr(self._endpoints, listener.endpoint))
        if bound is not None:
            return urlsplit(bound).netloc if "://" in bound else bound
        if choice.flexible and choice.port and not is_free(choice.port):
            return address(0)
        return address(choice.port)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: object = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", content) if isinstance(content, dict) else None
