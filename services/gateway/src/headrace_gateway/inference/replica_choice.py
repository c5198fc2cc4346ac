"""Ways to choose one of some replicas. Each takes one that may be used whenever there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.runner_work import RunnerWork, VersionWork
from headrace_gateway.mesh.session_calls import SessionCalls

FULL_SCAN_MAX = 8
_DRAWS_MAX = 3
_STEP_S = 0.001

Usable = Callable[[RunnerSession], bool]


@dataclass(slots=True, eq=False)
class Replica:
    """A version on a runner, with what it is compared by at hand.

    Attributes:
        share: What it gets of the calls that it would get when warm, above 0 and at most 1.
        rank: How far down the chain of preferred devices it stands; 0 is the first.
    """

    session: RunnerSession
    calls: SessionCalls
    work: RunnerWork
    version: VersionWork
    rank: int = 0
    share: float = 1.0

    def takes(self, payload_bytes: int, usable: Usable) -> bool:
        """Whether it has credit for the call, and nothing else speaks against it."""
        return self.calls.has_room(payload_bytes) and usable(self.session)

    @property
    def done_s(self) -> float:
        """When it would have answered one more call; a guess where it has not answered any."""
        return self.work.pending_s + self.version.cost_s


Choice = Callable[[Sequence[Replica], int, Usable], Replica | None]
"""Replicas of equal standing, the bytes of a call, and what else they must meet; None when none of them does."""


def least_cost(replicas: Sequence[Replica], payload_bytes: int, usable: Usable) -> Replica | None:
    """The replica that would be done first with all that it has and this call, in whole milliseconds.

    Of those that differ by less, the one with more calls in flight: short calls that travel and execute together cost
    less than they gain apart. Then the lower latency.
    """
    best: Replica | None = None
    best_rank = (0, 0, 0.0)
    for replica in replicas:
        work, version = replica.work, replica.version
        fresh = version.fresh
        done_s = (work.pending_s + version.cost_s * fresh) / replica.share
        rank = (int(done_s / _STEP_S), -work.in_flight, version.latency_s * fresh)
        if (best is None or rank < best_rank) and replica.takes(payload_bytes, usable):
            best, best_rank = replica, rank
    return best


def least_latency(replicas: Sequence[Replica], payload_bytes: int, usable: Usable) -> Replica | None:
    """The replica that has answered fastest of late; work in flight, which its answers don't show yet, is added."""
    best: Replica | None = None
    best_rank = 0.0
    for replica in replicas:
        version = replica.version
        rank = (version.latency_s * version.fresh + replica.work.pending_s) / replica.share
        if (best is None or rank < best_rank) and replica.takes(payload_bytes, usable):
            best, best_rank = replica, rank
    return best


class TwoChoices:
    """Compares all replicas while they are few; of many two random ones, which avoids herding and costs no scan.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """

    def __init__(self, *, choice: Choice, random: Random) -> None:
        self._choice = choice
        self._random = random

    def __call__(self, replicas: Sequence[Replica], payload_bytes: int, usable: Usable) -> Replica | None:
        count = len(replicas)
        if count <= FULL_SCAN_MAX:
            return self._choice(replicas, payload_bytes, usable)
        draw = self._random.random
        for _ in range(_DRAWS_MAX):
            first = int(draw() * count)
            second = (first + 1 + int(draw() * (count - 1))) % count
            found = self._choice((replicas[first], replicas[second]), payload_bytes, usable)
            if found is not None:
                return found
        return self._choice(replicas, payload_bytes, usable)


class RoundRobin:
    """One after another; those that can't be used are passed over, and those that warm up as often as they should."""

    def __init__(self, *, random: Random) -> None:
        self._random = random
        # Not always the first after each change of the replicas.
        self._turn = random.randrange(1 << 16)

    def __call__(self, replicas: Sequence[Replica], payload_bytes: int, usable: Usable) -> Replica | None:
        count = len(replicas)
        first_passed: int | None = None
        for index in range(self._turn, self._turn + count):
            replica = replicas[index % count]
            if replica.takes(payload_bytes, usable):
                if replica.share >= 1.0 or self._random.random() < replica.share:
                    self._turn = index + 1
                    return replica
                if first_passed is None:
                    first_passed = index
        if first_passed is None:
            return None
        self._turn = first_passed + 1
        return replicas[first_passed % count]
