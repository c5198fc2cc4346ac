"""What heartbeats tell of the models that are loaded."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from headrace.runner.internal.v1.mesh_pb2 import ModelLoad
from headrace_runner.execution.serving import ServingReplica

REPORTED_MAX = 512


def most_recent(replicas: Iterable[tuple[float, str, ServingReplica]]) -> list[ModelLoad]:
    """Reports of the models that were called last, so that a heartbeat stays small however many there are.

    Args:
        replicas: Seconds since the last call, the version's uid, and what answers its calls.
    """
    return [
        ModelLoad(
            version_uid=uid,
            queue_depth=replica.waiting,
            in_flight=replica.in_flight,
            queue_wait_us=int(replica.queue_wait_s * 1e6),
            idle_ms=int(idle_s * 1e3),
            calls=replica.calls,
        )
        for idle_s, uid, replica in heapq.nsmallest(REPORTED_MAX, replicas, key=lambda one: one[:2])
    ]
