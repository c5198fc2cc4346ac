"""Keeps the table of counters small: those of windows that ended long ago are removed each hour."""

from __future__ import annotations

import asyncio

import structlog

from headrace_common.errors import HeadraceError
from headrace_quota.quota_store import QuotaStore

_EVERY_S = 3_600.0


async def forget_ended_windows(store: QuotaStore) -> None:
    """Runs until it is cancelled. Any number of processes may do so at once; a store out of reach is asked again."""
    log = structlog.stdlib.get_logger("counters")
    while True:
        try:
            gone = await store.forget_ended_windows()
        except HeadraceError as error:
            log.warning("counters of ended windows stay for now", reason=error.reason)
        else:
            if gone:
                log.info("counters of ended windows removed", counters=gone)
        await asyncio.sleep(_EVERY_S)
