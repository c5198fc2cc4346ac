"""The port to the numbered history of versions, and what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace_common.revision_feed import FeedHead
from headrace_registry.models import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One committed change: the revision that it made, and the version that was registered or archived."""

    revision: int
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All versions of all tenants that can be served, as of one revision."""

    head: FeedHead
    versions: Sequence[Version]


class CatalogHistory(Protocol):
    """Reads of the history. All raise `StorageUnavailable` (UNAVAILABLE) while the store can't be reached."""

    async def head(self) -> FeedHead:
        """Where the history stands now."""
        ...

    async def changes(self, *, after_revision: int, limit: int) -> Sequence[Change]:
        """Up to `limit` changes in order, the first numbered `after_revision + 1` unless that one is forgotten.

        States are the present ones, so they may be newer than the revision; the later change follows.
        """
        ...

    async def snapshot(self) -> Snapshot:
        """Everything that can be served at one revision, O(versions) in memory."""
        ...
