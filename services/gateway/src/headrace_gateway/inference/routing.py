"""Which of the runners that have a model gets the next call."""

from __future__ import annotations

from collections.abc import Container, Sequence
from random import Random

from headrace_gateway.mesh.runner_session import RunnerSession

FULL_SCAN_MAX = 8
_STEP_S = 0.001


def choose(
    replicas: Sequence[RunnerSession], version_uid: str, payload_bytes: int, refused_by: Container[str], random: Random
) -> RunnerSession | None:
    """The replica that would answer first: least work in flight per execution slot, in whole milliseconds.

    Of those that differ by less, the one with more calls in flight: short calls that travel and execute together cost
    less than they gain apart. Then the lower latency. Only those count that have credit for the call and have not
    refused it before; None when there is none. All are compared while they are few; of many, two random ones are,
    which avoids herding and costs no scan.
    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """
    if len(replicas) > FULL_SCAN_MAX:
        able = [session for session in replicas if _takes(session, payload_bytes, refused_by)]
        replicas = able if len(able) <= FULL_SCAN_MAX else random.sample(able, 2)
    best: RunnerSession | None = None
    best_rank = (0, 0, 0.0)
    for session in replicas:
        if _takes(session, payload_bytes, refused_by):
            in_flight = session.calls.in_flight
            rank = (int(in_flight * session.cost_s(version_uid) / _STEP_S), -in_flight, session.latency_s)
            if best is None or rank < best_rank:
                best, best_rank = session, rank
    return best


def _takes(session: RunnerSession, payload_bytes: int, refused_by: Container[str]) -> bool:
    return session.token not in refused_by and session.calls.has_room(payload_bytes)
