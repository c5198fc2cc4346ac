"""Which replica gets requests whose prompts begin alike, so that what they share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple


class Place(NamedTuple):
    """A replica that takes the call.

    Attributes:
        runner_id: The same at every gateway.
        rank: How far down the chain of preferred devices it stands; 0 is the first.
        calls: Calls of the version that it has, waiting ones included; one of several completions counts for each.
        slots: How many of them it computes at the same time, or should while it warms up; above 0.
    """

    runner_id: str
    rank: int
    calls: int
    slots: float

    @property
    def load(self) -> float:
        """Calls for each slot: 1 where there is one for each."""
        return self.calls / self.slots


def pick(affinity: bytes, places: Sequence[Place], slack: float) -> int:
    """Index of the place for a call. Pure.

    Places are ranked by a hash of affinity and runner, so gateways agree without talking, and a runner that comes or
    goes moves none but its own calls. The first is taken whose load is at most `slack` above the least one, and which
    has a free slot where any has. Less preferred devices are looked at only when no better one has a free slot.
    Source: rendezvous hashing (Thaler, Ravishankar, 1998) with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016).

    Args:
        affinity: The same for calls that should go to the same place.
        places: At least one.
        slack: Calls for each slot.
    """
    indices = range(len(places))
    free = [index for index in indices if places[index].calls < places[index].slots]
    best_rank = min((places[index].rank for index in free), default=0)
    looked_at = [index for index in free if places[index].rank == best_rank] or list(indices)
    most = min(places[index].load for index in looked_at) + slack
    return min(
        (index for index in looked_at if places[index].load <= most),
        key=lambda index: (places[index].rank, weight(affinity, places[index].runner_id)),
    )


def weight(affinity: bytes, runner_id: str) -> bytes:
    """Lowest for the runner that calls of this affinity belong to."""
    return blake2b(runner_id.encode(), key=affinity, digest_size=8).digest()
