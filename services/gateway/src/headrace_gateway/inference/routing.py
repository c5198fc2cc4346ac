"""Which of the runners that have a model gets the next call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

from headrace_gateway.mesh.runner_session import RunnerSession

FULL_SCAN_MAX = 8


def choose(replicas: Sequence[RunnerSession], version_uid: str, random: Random) -> RunnerSession | None:
    """The replica that would answer first: fewest calls in flight per execution slot, then the lower latency.

    All are compared while they are few; of many, two random ones are, which avoids herding and costs no scan.
    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """
    candidates = replicas if len(replicas) <= FULL_SCAN_MAX else random.sample(replicas, 2)
    return min(candidates, key=_load_of(version_uid), default=None)


def _load_of(version_uid: str) -> Callable[[RunnerSession], tuple[float, float]]:
    def load(session: RunnerSession) -> tuple[float, float]:
        return session.calls.in_flight / session.execution_slots(version_uid), session.latency_s

    return load


def with_room(
    replicas: Iterable[RunnerSession], payload_bytes: int, tried: frozenset[str] | set[str]
) -> list[RunnerSession]:
    """Replicas that have credit for the call and have not failed it before."""
    return [session for session in replicas if session.token not in tried and session.calls.has_room(payload_bytes)]
