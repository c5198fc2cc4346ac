"""What the supervisor needs to know of a process to start it, tell that it serves, and start it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from headrace_cli.mesh.process import MeshProcess, ProcessSpec


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where a service listens, as `host:port`; HTTP and metrics as URLs."""

    grpc: str | None = None
    front: str | None = None
    http: str | None = None
    mesh: str | None = None
    metrics: str | None = None


class Member(Protocol):
    """One process of the mesh, over all its restarts."""

    @property
    def name(self) -> str:
        """Unique name, for example `gateway-0`."""
        ...

    @property
    def endpoints(self) -> Endpoints:
        """Where it listens; all None before it first served. A restart keeps them."""
        ...

    async def prepare(self) -> None:
        """Bring about what must exist before a start, such as a data folder. Runs before each start."""
        ...

    def spec(self) -> ProcessSpec:
        """What to run now."""
        ...

    async def serving(self, process: MeshProcess) -> None:
        """Return as soon as the process serves. The supervisor bounds the wait and watches for its death."""
        ...
