"""Which of the runners that have a model gets the next call."""

from __future__ import annotations

from collections.abc import Container, Sequence
from random import Random

from headrace_gateway.mesh.runner_session import RunnerSession

FULL_SCAN_MAX = 8


def choose(
    replicas: Sequence[RunnerSession], version_uid: str, payload_bytes: int, refused_by: Container[str], random: Random
) -> RunnerSession | None:
    """The replica that would answer first: fewest calls in flight per execution slot, then the lower latency.

    Only those count that have credit for the call and have not refused it before; None when there is none. All are
    compared while they are few; of many, two random ones are, which avoids herding and costs no scan.
    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """
    if len(replicas) > FULL_SCAN_MAX:
        able = [session for session in replicas if _takes(session, payload_bytes, refused_by)]
        replicas = able if len(able) <= FULL_SCAN_MAX else random.sample(able, 2)
    best: RunnerSession | None = None
    best_load = best_latency_s = 0.0
    for session in replicas:
        if not _takes(session, payload_bytes, refused_by):
            continue
        load = session.calls.in_flight / session.execution_slots(version_uid)
        if best is None or load < best_load or (load == best_load and session.latency_s < best_latency_s):
            best, best_load, best_latency_s = session, load, session.latency_s
    return best


def _takes(session: RunnerSession, payload_bytes: int, refused_by: Container[str]) -> bool:
    return session.token not in refused_by and session.calls.has_room(payload_bytes)
