"""What runners report of the models that they have loaded, put together by version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headrace_gateway.mesh.runner_session import RunnerSession


@dataclass(slots=True)
class ReportedLoad:
    """How busy one version is, over all of its replicas and all gateways.

    Attributes:
        replicas: Runners that have it loaded and take calls.
        slots: Executions at the same time on them.
        queue_depth: Calls that wait for an execution slot.
        in_flight: Calls that were received and have not ended, waiting ones included.
        queue_wait_s: Moving average of the wait, weighted by the calls in flight; 0 while there are none.
        used_at: When its last call came, by this gateway's monotonic clock; None when none has come.
    """

    replicas: int = 0
    slots: int = 0
    queue_depth: int = 0
    in_flight: int = 0
    queue_wait_s: float = 0.0
    used_at: float | None = None


def read_reports(sessions: Iterable[RunnerSession]) -> dict[str, ReportedLoad]:
    """The load of each version that some runner has in memory, from the runners' last heartbeats."""
    loads: dict[str, ReportedLoad] = {}
    for session in sessions:
        if session.takes_calls:
            for uid, event in session.models.items():
                if session.has_loaded(uid):
                    load = loads.setdefault(uid, ReportedLoad())
                    load.replicas += 1
                    load.slots += max(1, event.execution_slots)
        for reported in session.heartbeat.models:
            load = loads.get(reported.version_uid)
            if load is None:
                if not session.has_loaded(reported.version_uid):
                    continue
                load = loads[reported.version_uid] = ReportedLoad()
            load.queue_depth += reported.queue_depth
            load.in_flight += reported.in_flight
            load.queue_wait_s += reported.in_flight * reported.queue_wait_us / 1e6
            if reported.calls:
                used_at = session.heartbeat_at - reported.idle_ms / 1e3
                load.used_at = used_at if load.used_at is None else max(used_at, load.used_at)
    for load in loads.values():
        load.queue_wait_s = load.queue_wait_s / load.in_flight if load.in_flight else 0.0
    return loads
