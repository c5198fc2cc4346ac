"""The port to the numbered history of tenants and keys, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from headrace_common.revision_feed import FeedHead
from headrace_quota.api_keys import Role
from headrace_quota.limits import Limit
from headrace_quota.resource_policies import ResourcePolicy
from headrace_quota.tenants import Isolation, TenantStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantState:
    """What a gateway must know of a tenant.

    Attributes:
        features: Switches of its features by their names: on or off.
    """

    tenant_id: str
    status: TenantStatus
    tier: str
    limits: tuple[Limit, ...] = ()
    aggregate_streams: bool = False
    features: Mapping[str, str] = field(default_factory=dict[str, str])
    isolation: Isolation = Isolation.SHARED


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """What a gateway must know of a key."""

    key_id: str
    tenant_id: str
    sha256: bytes
    roles: tuple[Role, ...]
    expire_time: datetime | None
    revoked: bool
    policies: tuple[ResourcePolicy, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change: the revision that it made, and the state of the tenant or the key that changed."""

    revision: int
    state: TenantState | KeyState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a gateway must know, as of one revision."""

    head: FeedHead
    tenants: Sequence[TenantState]
    keys: Sequence[KeyState]


class PrincipalHistory(Protocol):
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
        """All tenants and keys at one revision, O(keys) in memory.

        Keys that stopped working long ago are left out: their holders learn "unknown" instead of "revoked".
        """
        ...
