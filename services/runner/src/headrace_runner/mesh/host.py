"""What the mesh needs of the runner behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import models_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_runner.calls import Cancel, Ended, IncomingCall


class Host(Protocol):
    """The models of this process and the device that runs them."""

    @property
    def device(self) -> mesh_pb2.Device: ...

    @property
    def backends(self) -> Sequence[str]: ...

    @property
    def execution_slots(self) -> int: ...

    def backend_info(self) -> Sequence[gateway_pb2.BackendInfo]:
        """What the backends are and can do, those that can't be used included."""
        ...

    def begin(self, call: IncomingCall, ended: Ended) -> Cancel:
        """Takes one call; `ended` is told once how it ended, never before this returns. Raises what refuses it."""
        ...

    def want(self, *, tenant_id: str, version: models_pb2.Version, ticket: str, ttl_s: float) -> None:
        """Takes note that a gateway would like the version in memory; returns at once."""
        ...

    def release(self, version_uid: str) -> None:
        """Takes note that the version shall leave memory, whoever wants it; returns at once."""
        ...

    def model_events(self) -> Sequence[mesh_pb2.ModelEvent]:
        """The state of every model that is loading, loaded, or could not be loaded."""
        ...

    def add_listener(self, listener: Callable[[mesh_pb2.ModelEvent], None]) -> None: ...

    def remove_listener(self, listener: Callable[[mesh_pb2.ModelEvent], None]) -> None: ...

    def load(self) -> mesh_pb2.Heartbeat:
        """How busy the process is now."""
        ...
