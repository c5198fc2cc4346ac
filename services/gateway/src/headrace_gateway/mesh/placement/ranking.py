"""Which runners are asked to have a version, the same ones at every gateway."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Rank = tuple[int, bytes, str]


def rank(version_uid: str, *, preference: int, name: str, id: str) -> Rank:  # noqa: A002 - what it is called
    """Where a runner stands for a version; lower is better. The same on every gateway.

    Rendezvous hashing over the runners' configured names, within what the version prefers: a restarted runner gets its
    models back, one that comes or goes moves no model but its own, and gateways agree without talking to each other.
    Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998.

    Args:
        version_uid: The version.
        preference: Place of the runner's device in the manifest's order, 0 first.
        name: The runner's configured name, which outlives a restart.
        id: Identifies its process, where two have one name.
    """
    return preference, hashlib.blake2b(f"{version_uid}/{name}".encode(), digest_size=8).digest(), id


def choose_runners(
    ranked: Sequence[T], count: int, *, loaded: Callable[[T], bool], failed: Callable[[T], bool]
) -> list[T]:
    """The best `count` runners, and for each of them that is not ready one that is, so that none leaves too early.

    Args:
        ranked: All that could have the version, in their order.
        count: How many are wanted.
        loaded: Whether one has it.
        failed: Whether one could not load it; such come last.
    """
    best: list[T] = []
    broken: list[T] = []
    for runner in ranked:
        if len(best) == count:
            break
        (broken if failed(runner) else best).append(runner)
    best += broken[: count - len(best)]
    missing = sum(not loaded(runner) for runner in best)
    if missing:
        best += [runner for runner in ranked if runner not in best and loaded(runner)][:missing]
    return best
