"""The principal feed's messages, and how few reads of the database all its watchers together cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from headrace.quota.internal.v1 import principals_pb2 as pb
from headrace_common.change_window import ChangeWindow
from headrace_common.revision_feed import FeedHead
from headrace_quota.limit_messages import limit_message
from headrace_quota.messages import (
    ISOLATION_TO_WIRE,
    ROLE_TO_WIRE,
    STATUS_TO_WIRE,
    policy_message,
    timestamp,
)
from headrace_quota.principal_history import KeyState, PrincipalHistory, TenantState

Message = pb.WatchPrincipalsResponse

_PAGE_ROWS = 500


class PrincipalFeedSource:
    """A `FeedSource`: whichever watcher asks first reads a change, all the others find it in the window."""

    def __init__(self, *, history: PrincipalHistory, window: ChangeWindow[Message]) -> None:
        self._history = history
        self._window = window
        self._reading = asyncio.Lock()

    async def head(self) -> FeedHead:
        """Where the history stands."""
        head = await self._history.head()
        self._window.enter(head.epoch)
        return head

    async def snapshot(self) -> AsyncIterator[tuple[int, Message]]:
        """Everything in bounded messages, all with the revision of the snapshot; at least one."""
        snapshot = await self._history.snapshot()
        revision, epoch = snapshot.head.revision, snapshot.head.epoch
        rows: list[TenantState | KeyState] = [*snapshot.tenants, *snapshot.keys]
        pages = _pages(rows)
        for number, page in enumerate(pages, start=1):
            yield (
                revision,
                Message(
                    revision=revision,
                    epoch=epoch,
                    snapshot=True,
                    snapshot_complete=number == len(pages),
                    tenants=[tenant_record(row) for row in page if isinstance(row, TenantState)],
                    keys=[key_record(row) for row in page if isinstance(row, KeyState)],
                ),
            )

    async def changes(self, after_revision: int, limit: int) -> Sequence[tuple[int, Message]]:
        """The changes that follow a revision, from the window or else from the history."""
        known = self._window.after(after_revision, limit)
        if known:
            return known
        async with self._reading:
            known = self._window.after(after_revision, limit)
            if known:
                return known
            epoch = self._window.epoch
            found = await self._history.changes(after_revision=after_revision, limit=limit)
            changes = [(change.revision, change_message(change.revision, epoch, change.state)) for change in found]
            if epoch == self._window.epoch:
                self._window.add(changes)
            return changes

    async def keep(self, head: FeedHead) -> None:
        """Reads all changes up to `head` into the window: watchers get them even if the store goes away now.

        Raises:
            StorageUnavailable: DATABASE_UNAVAILABLE (UNAVAILABLE).
        """
        place = self._window.newest or max(head.compacted, head.revision - _PAGE_ROWS)
        while place < head.revision:
            changes = await self.changes(place, _PAGE_ROWS)
            if not changes:
                return
            place = changes[-1][0]

    def heartbeat(self, head: FeedHead) -> Message:
        """The sign of life: nothing newer than this."""
        return Message(revision=head.revision, epoch=head.epoch)


def _pages(rows: Sequence[TenantState | KeyState]) -> list[list[TenantState | KeyState]]:
    """Messages' worth of rows: at most 500, a limit counts as one."""
    pages: list[list[TenantState | KeyState]] = [[]]
    weight = 0
    for row in rows:
        own = 1 + len(row.limits) if isinstance(row, TenantState) else 1
        if weight and weight + own > _PAGE_ROWS:
            pages.append([])
            weight = 0
        pages[-1].append(row)
        weight += own
    return pages


def change_message(revision: int, epoch: str, state: TenantState | KeyState) -> Message:
    """One change as the contract tells it."""
    if isinstance(state, TenantState):
        return Message(revision=revision, epoch=epoch, tenants=[tenant_record(state)])
    return Message(revision=revision, epoch=epoch, keys=[key_record(state)])


def tenant_record(state: TenantState) -> pb.TenantRecord:
    """A tenant as gateways know it."""
    return pb.TenantRecord(
        tenant_id=state.tenant_id,
        status=STATUS_TO_WIRE[state.status],
        tier=state.tier,
        limits=[limit_message(limit) for limit in state.limits],
        aggregate_streams=state.aggregate_streams,
        features=state.features,
        isolation=ISOLATION_TO_WIRE[state.isolation],
    )


def key_record(state: KeyState) -> pb.KeyRecord:
    """A key as gateways know it: by its digest."""
    return pb.KeyRecord(
        key_id=state.key_id,
        tenant_id=state.tenant_id,
        key_sha256=state.sha256,
        roles=[ROLE_TO_WIRE[role] for role in state.roles],
        expire_time=timestamp(state.expire_time) if state.expire_time is not None else None,
        revoked=state.revoked,
        policies=[policy_message(policy) for policy in state.policies],
    )
