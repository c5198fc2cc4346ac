"""The schedules of all models that have one."""

from __future__ import annotations

from headrace.registry.v1.manifest_pb2 import PlacementRule
from headrace_common.clock import Clock
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.placement.schedule import Schedule


class ReplicaSchedules:
    """Which rule holds for which version now. One event loop."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._schedules: dict[str, Schedule] = {}

    def holding(self, version: CatalogVersion) -> PlacementRule | None:
        """The rule that holds for a version; None where its manifest's own bounds do."""
        schedule = self._schedules.get(version.uid)
        if schedule is None:
            rules = version.proto.manifest.placement.schedule
            if not rules:
                return None
            schedule = self._schedules[version.uid] = Schedule(rules)
        return schedule.holding(self._clock.now())

    def forget(self, uid: str) -> None:
        """The version has left service."""
        self._schedules.pop(uid, None)
