"""Which runners are asked to have a version, the same ones at every gateway."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """A runner that could serve the version.

    Attributes:
        id: Identifies the runner's process.
        name: Its configured name, which outlives a restart.
        preference: Place of its device in the manifest's order, 0 first.
        loaded: Whether it has the version in memory.
        failed: Whether it could not load it.
    """

    id: str
    name: str
    preference: int = 0
    loaded: bool = False
    failed: bool = False


def choose_runners(version_uid: str, candidates: Iterable[Candidate], count: int) -> Sequence[Candidate]:
    """The best `count` runners, and for each of them that is not ready one that is, so that none leaves too early.

    Ranked by rendezvous hashing over the runners' configured names: a restarted runner gets its models back, one that
    comes or goes moves no model but its own, and gateways agree without talking to each other. Preferred devices come
    first, runners that could not load the version last.
    Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998.
    """
    ranked = sorted(candidates, key=lambda one: (one.failed, one.preference, weight(version_uid, one.name), one.id))
    best, others = ranked[:count], ranked[count:]
    missing = sum(not one.loaded for one in best)
    return [*best, *[one for one in others if one.loaded][:missing]]


def weight(version_uid: str, runner_name: str) -> bytes:
    """Where a runner stands for a version; lower is better. The same on every gateway."""
    return hashlib.blake2b(f"{version_uid}/{runner_name}".encode(), digest_size=8).digest()
