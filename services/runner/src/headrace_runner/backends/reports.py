"""What a runner tells gateways of its backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from headrace.gateway.v1.mesh_pb2 import BackendCapabilities, BackendInfo
from headrace_runner.backends.contract import BackendHealth, Capabilities, DescribesItself
from headrace_runner.backends.discovery import BackendSet

Health = Callable[[str], BackendHealth]
Metrics = Callable[[str], Mapping[str, float]]


class BackendReports:
    """Describes the backends of this process, usable or not.

    Args:
        backends: Those that are installed.
        health: A usable backend's health now, by its name.
        metrics: A usable backend's metrics now, by its name.
    """

    def __init__(self, *, backends: BackendSet, health: Health, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics
        self._usable = [
            BackendInfo(
                name=name, version=backends.availability(name).version, capabilities=_capabilities(backends, name)
            )
            for name in backends.names
        ]
        self._others = [
            BackendInfo(name=name, healthy=False, reason=reason)
            for name, reason in sorted(backends.unavailable.items())
        ]
        self.names = backends.names
        """Usable backends in alphabetical order."""

    def introduction(self) -> list[BackendInfo]:
        """For a hello: what they are, can do, and whether they work."""
        introduced: list[BackendInfo] = []
        for backend in self._usable:
            info = BackendInfo()
            info.CopyFrom(backend)
            info.healthy, info.reason = self._state(backend.name)
            introduced.append(info)
        return [*introduced, *self._others]

    def state(self) -> list[BackendInfo]:
        """For a heartbeat: their health and metrics."""
        reported: list[BackendInfo] = []
        for backend in self._usable:
            healthy, reason = self._state(backend.name)
            reported.append(
                BackendInfo(
                    name=backend.name,
                    version=backend.version,
                    healthy=healthy,
                    reason=reason,
                    metrics=self._metrics(backend.name),
                )
            )
        return [*reported, *self._others]

    def _state(self, name: str) -> tuple[bool, str]:
        health = self._health(name)
        return health.healthy, health.reason


def _capabilities(backends: BackendSet, name: str) -> BackendCapabilities:
    backend = backends.usable[name]
    told = backend.capabilities() if isinstance(backend, DescribesItself) else Capabilities()
    return BackendCapabilities(
        streaming=told.streaming,
        batching=told.batching,
        quantization=told.quantization,
        device_types=backends.availability(name).device_types,
        interruption=told.interruption,
    )
