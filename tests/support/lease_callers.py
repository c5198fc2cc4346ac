"""Callers of many gateways' books, all in one event loop, and what they were let in for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from headrace_common.errors import HeadraceError
from headrace_gateway.quota.amounts import Amounts
from headrace_gateway.quota.quota_leases import QuotaLeases

ONE = Amounts()
_WAIT_S = 1.0
_PAUSE_MAX_S = 0.5


@dataclass(slots=True)
class Admissions:
    """When calls were let in, by the clock of this process, and why others were not."""

    times_s: list[float] = field(default_factory=list[float])
    refused: Counter[str] = field(default_factory=Counter[str])

    def within(self, begin_s: float, end_s: float) -> int:
        """Calls let in between two moments."""
        return sum(begin_s <= at_s < end_s for at_s in self.times_s)

    def least_burst(self, rate_per_s: float) -> float:
        """The smallest burst with which no span of time had more calls than rate and burst allow."""
        worst, lowest = 0.0, float("inf")
        for count, at_s in enumerate(sorted(self.times_s)):
            level = count - rate_per_s * (at_s - self.times_s[0])
            lowest = min(lowest, level)
            worst = max(worst, level + 1 - lowest)
        return worst


async def call_until(
    end_s: float, gateways: Sequence[QuotaLeases], *, tenant: str, callers: int, seed: int
) -> Admissions:
    """`callers` at each gateway, which call as fast as they are let and wait where they are told to."""
    admissions = Admissions()
    chance = Random(seed)
    tasks = [_caller(leases, end_s, tenant, admissions, chance) for leases in gateways for _ in range(callers)]
    await asyncio.gather(*tasks)
    return admissions


async def _caller(leases: QuotaLeases, end_s: float, tenant: str, admissions: Admissions, chance: Random) -> None:
    book = leases.book
    while time.monotonic() < end_s:
        try:
            reservation = book.reserve(tenant, "m", ONE) or await book.granted(tenant, "m", ONE, _WAIT_S)
        except HeadraceError as error:
            admissions.refused[error.reason] += 1
            pause_s = min(error.retry_after_s or 0.1, _PAUSE_MAX_S)
            await asyncio.sleep(pause_s * (1 + chance.random() / 2))
            continue
        admissions.times_s.append(time.monotonic())
        await asyncio.sleep(0)
        reservation.settle(ONE)
