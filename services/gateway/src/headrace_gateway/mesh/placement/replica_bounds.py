"""How few and how many replicas a model may have."""

from __future__ import annotations

from typing import NamedTuple

from headrace.registry.v1.manifest_pb2 import Manifest, PlacementRule

REPLICAS_DEFAULT = 2


class ReplicaBounds(NamedTuple):
    """Numbers of replicas; `idle` ≤ `used` ≤ `most`.

    Attributes:
        idle: Wanted also while nobody uses the model: its warm pool.
        used: Wanted at least while it is used.
        most: Wanted at most, however long its queues are.
    """

    idle: int
    used: int
    most: int


def replica_bounds(manifest: Manifest, rule: PlacementRule | None, eligible: int) -> ReplicaBounds:
    """The bounds by the manifest, or by the rule of its schedule that holds now.

    Args:
        manifest: The version's.
        rule: Takes the place of the manifest's own bounds; None where none holds.
        eligible: Runners that could serve it.
    """
    limits = rule if rule is not None else manifest.placement
    at_least = max(manifest.execution.replicas or REPLICAS_DEFAULT, limits.min_replicas)
    used = min(at_least, limits.max_replicas or at_least)
    most = max(used, min(limits.max_replicas or eligible, eligible))
    return ReplicaBounds(min(limits.min_replicas, used), used, most)
