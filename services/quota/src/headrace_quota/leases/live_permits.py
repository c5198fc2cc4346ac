"""What is used and held of rates and concurrency now, read from where leases are kept (fields: leases.lua)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from headrace_quota.leases.valkey_leases import limit_key
from headrace_quota.limit_messages import limit_message
from headrace_quota.limits import Limit, LimitKey, RateAlgorithm, Window
from headrace_quota.live_usage import LiveUse

_TIMEOUT_S = 0.7
_SLOTS = 100


@dataclass(frozen=True, slots=True)
class _Holding:
    """A gateway's permits of a limit, and when they lapse by the server's clock."""

    permits: int
    lapse_ms: float


class ValkeyLiveUsage:
    """The `LiveUsage` of a running mesh. Reads only.

    Args:
        url: `redis://…`; None where there is no such store, so nothing can be told.
    """

    def __init__(self, *, url: str | None) -> None:
        self._client: Any = (
            None
            if url is None
            else redis.asyncio.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=None, decode_responses=True
            )
        )
        self._log = structlog.stdlib.get_logger("live usage")

    async def read(self, tenant_id: str, limits: Sequence[Limit]) -> Mapping[LimitKey, LiveUse]:
        if self._client is None:
            return {}
        try:
            async with asyncio.timeout(2 * _TIMEOUT_S), self._client.pipeline(transaction=True) as pipeline:
                pipeline.time()
                for limit in limits:
                    pipeline.hgetall(limit_key(tenant_id, limit_message(limit)))
                (seconds, micros), *states = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._log.warning("use of rates and concurrency can't be read", error=type(error).__name__)
            return {}
        now_ms = seconds * 1_000 + micros / 1_000
        return {limit.key: live_use(limit, state, now_ms) for limit, state in zip(limits, states, strict=True)}

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.aclose()


def live_use(limit: Limit, fields: Mapping[str, str], now_ms: float) -> LiveUse:
    """How a limit stands at a time of the server's clock, by its hash's fields; without any nothing is used."""
    holdings = [_holding(value) for name, value in fields.items() if name.startswith("g:")]
    held = sum(holding.permits for holding in holdings if holding.lapse_ms > now_ms)
    if limit.window is Window.MOMENT:
        used = sum(round(float(value)) for name, value in fields.items() if name.startswith("u:"))
        return LiveUse(used=used, held=max(0, held - used))
    if limit.algorithm is RateAlgorithm.SLIDING_WINDOW:
        return LiveUse(used=_slid(limit, fields, holdings, now_ms), held=held)
    return LiveUse(used=_drained(limit, fields, held, now_ms), held=held)


def _drained(limit: Limit, fields: Mapping[str, str], held: int, now_ms: float) -> int:
    """What is missing from the bucket, and not held."""
    if "level" not in fields or not limit.period_ms or not limit.burst:
        return 0
    refilled = limit.amount / limit.period_ms * max(0.0, now_ms - float(fields["at"]))
    return max(0, round(limit.burst - held - float(fields["level"]) - refilled))


def _slid(limit: Limit, fields: Mapping[str, str], holdings: Sequence[_Holding], now_ms: float) -> int:
    """What was used within the window that ends now; permits that lapsed may have been used."""
    window_ms = limit.period_ms or 0
    width_ms = window_ms / _SLOTS
    slots = ((float(name[2:]), float(value)) for name, value in fields.items() if name.startswith("s:"))
    used = sum(permits for slot, permits in slots if (slot + 1) * width_ms + window_ms > now_ms)
    lapsed = sum(holding.permits for holding in holdings if holding.lapse_ms <= now_ms < holding.lapse_ms + window_ms)
    return round(used) + lapsed


def _holding(value: str) -> _Holding:
    permits, lapse_ms, *_ = value.split()
    return _Holding(round(float(permits)), float(lapse_ms))
