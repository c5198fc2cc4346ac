"""Which artefacts leave the disk."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CachedArtifact:
    """One artefact on disk.

    Attributes:
        name: Name of its folder.
        size_bytes: Bytes that it takes.
        last_used: When it was last used; any clock, compared only with the others'.
    """

    name: str
    size_bytes: int
    last_used: float


def choose_evictions(cached: Collection[CachedArtifact], needed_bytes: int, bytes_max: int) -> list[CachedArtifact]:
    """The least recently used artefacts whose removal makes room for `needed_bytes`.

    Returns:
        As few as necessary, oldest first; all of them when even that is not enough.
    """
    surplus = sum(artifact.size_bytes for artifact in cached) + needed_bytes - bytes_max
    chosen: list[CachedArtifact] = []
    for artifact in sorted(cached, key=lambda artifact: (artifact.last_used, artifact.name)):
        if surplus <= 0:
            break
        chosen.append(artifact)
        surplus -= artifact.size_bytes
    return chosen
