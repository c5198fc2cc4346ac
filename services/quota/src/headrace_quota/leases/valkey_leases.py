"""Rates and concurrency in Valkey: one call of a function there takes a whole report, atomically."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, cast

import redis.asyncio
import structlog
from redis.exceptions import RedisError, ResponseError

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common.clock import Clock

FUNCTION = "headrace_lease"
_GATEWAYS = "headrace:leases:gateways"
_TIMEOUT_S = 0.7
_PAUSE_S = 0.25
"""How long a server that failed is left alone."""


class StoreLost(Exception):
    """Valkey gave no answer in time. What it did is unknown, which costs permits at most until they lapse."""


class StaleReport(Exception):
    """A newer report of the gateway was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One limit of a report; see `LimitReport`."""

    tenant_id: str
    limit: pb.Limit
    wanted: int
    waiting: int
    returned: int
    in_use: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report as far as it is about rates and concurrency.

    Attributes:
        share: What the gateway goes by on its own, `counted` the most that it may believe to, and `total` the sum of
            that over all gateways.
    """

    gateway_id: str
    sequence: int
    answered: int
    share: float
    counted: float
    total: float
    leaving: bool
    replaces: Sequence[str]
    wishes: Sequence[Wish]


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to a wish; see `LimitGrant`."""

    granted: int
    ttl_ms: int
    retry_after_ms: int
    used: int


class ValkeyLeases:
    """The store of one quota process. The functions are loaded where the server doesn't know them.

    Args:
        url: `redis://…`; None where there is no such store, which is the same as one that is out of reach.
        expire_s: How long a gateway that reports no more counts.
    """

    def __init__(self, *, url: str | None, expire_s: float, clock: Clock) -> None:
        self._client: Any = (
            None
            if url is None
            else redis.asyncio.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=None, decode_responses=True
            )
        )
        self._expire_s = expire_s
        self._clock = clock
        self._again_at_s = 0.0
        self._lost = False
        self._log = structlog.stdlib.get_logger("leases")

    @property
    def lost(self) -> bool:
        """Whether the last call failed."""
        return self._lost or self._client is None

    async def take(self, report: Report) -> tuple[list[Grant], float]:
        """Takes a report and grants what is there.

        Returns:
            A grant for each wish, and the part of all limits that is left to gateways out of reach.

        Raises:
            StoreLost: Valkey is out of reach.
            StaleReport: The report is older than another one of the gateway.
        """
        if self._client is None or self._clock.monotonic() < self._again_at_s:
            raise StoreLost
        keys, document = function_arguments(report, expire_s=self._expire_s)
        # Shielded: a connection whose command was cancelled half-way can't be used again.
        call = asyncio.ensure_future(self._call(keys, json.dumps(document)))
        try:
            async with asyncio.timeout(2 * _TIMEOUT_S):
                answer = await asyncio.shield(call)
        except (RedisError, OSError, TimeoutError) as error:
            if not self._lost:
                self._log.warning("rates and concurrency are out of reach", error=type(error).__name__)
            self._lost = True
            self._again_at_s = self._clock.monotonic() + _PAUSE_S
            call.add_done_callback(_forget)
            raise StoreLost from None
        if self._lost:
            self._log.info("rates and concurrency are granted again")
            self._lost = False
        return read_answer(answer)

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _call(self, keys: list[str], document: str) -> list[int]:
        try:
            return cast("list[int]", await self._client.fcall(FUNCTION, len(keys), *keys, document))
        except ResponseError as error:
            if "function not found" not in str(error).lower():
                self._log.exception("lease function failed")
                raise
        await self._client.function_load(function_source(), replace=True)
        return cast("list[int]", await self._client.fcall(FUNCTION, len(keys), *keys, document))


def function_arguments(report: Report, *, expire_s: float) -> tuple[list[str], dict[str, Any]]:
    """The keys that the function touches, and the document that it reads.

    With `now_ms` added to that, the function goes by this time, which must never go back, instead of the server's.
    """
    document: dict[str, Any] = {
        "gateway": report.gateway_id,
        "sequence": report.sequence,
        "answered": report.answered,
        "share": report.share,
        "counted": report.counted,
        "total": report.total,
        "leaving": report.leaving,
        "busy": any(wish.in_use for wish in report.wishes),
        "replaces": list(report.replaces),
        "expire_ms": expire_s * 1_000,
        "limits": [_limit(wish) for wish in report.wishes],
    }
    return [_GATEWAYS, *(limit_key(wish.tenant_id, wish.limit) for wish in report.wishes)], document


def read_answer(answer: Sequence[int]) -> tuple[list[Grant], float]:
    """The grants in the function's answer, and the part of all limits that is left to gateways out of reach.

    Raises:
        StaleReport: The report is older than another one of the gateway.
    """
    if answer[0] == 0:
        raise StaleReport
    numbers = answer[2:]
    return [Grant(*numbers[place : place + 4]) for place in range(0, len(numbers), 4)], answer[1] / 1e6


def _limit(wish: Wish) -> dict[str, Any]:
    limit = wish.limit
    if limit.window == pb.WINDOW_MOMENT:
        kind = "concurrency"
    else:
        kind = "sliding" if limit.algorithm == pb.RATE_ALGORITHM_SLIDING_WINDOW else "gcra"
    return {
        "kind": kind,
        "amount": limit.amount,
        "period_ms": limit.period.seconds * 1_000 + limit.period.nanos / 1e6 or 1_000,
        "burst": limit.burst or limit.amount,
        # A call counts when it is let in; tokens that turn out not to be needed come back.
        "refunds": limit.resource != pb.RESOURCE_REQUESTS,
        "wanted": wish.wanted,
        "waiting": wish.waiting,
        "returned": wish.returned,
        "in_use": wish.in_use,
        "held": wish.held,
    }


def limit_key(tenant_id: str, limit: pb.Limit) -> str:
    """The key of the hash in which leases of a limit are kept."""
    return f"headrace:leases:{tenant_id}:{limit.resource}:{limit.window}:{limit.algorithm}:{limit.model}"


def _forget(call: asyncio.Future[Any]) -> None:
    """Takes note of a failure that nobody waits for any more."""
    if not call.cancelled():
        call.exception()


@cache
def function_source() -> str:
    """The functions as Lua."""
    return (files("headrace_quota.leases") / "leases.lua").read_text(encoding="utf-8")
