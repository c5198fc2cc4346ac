"""What this gateway may use of one limit at the moment. Pure; times are monotonic seconds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from headrace.quota.v1.quotas_pb2 import (
    RESOURCE_CONCURRENCY,
    RESOURCE_DEVICE_MS,
    RESOURCE_INPUT_BYTES,
    RESOURCE_REQUESTS,
    RESOURCE_TOKENS,
    Limit,
)
from headrace_gateway.quota.amounts import Amounts

FIELDS = {RESOURCE_REQUESTS: 0, RESOURCE_TOKENS: 1, RESOURCE_INPUT_BYTES: 2, RESOURCE_DEVICE_MS: 3}
"""Where a resource stands in `Amounts`."""
CALLS = -1
"""In place of such a field: every call counts as one."""
SMALL = 16
"""Limits that let through fewer at once are granted call by call: nothing is kept for calls to come."""
_DEMAND_SPAN_S = 0.25
_DEMAND_LEAST_PER_S = 1 / 60


class LeaseKey(NamedTuple):
    """The limit. `window_start` is Unix time in seconds, 0 but for calendar windows."""

    tenant_id: str
    model: str
    resource: int
    window: int
    window_start: int = 0


@dataclass(slots=True, kw_only=True)
class Share:
    """What the gateway may go by while nobody grants anything.

    Attributes:
        part: Of every limit, 0 to 1.
        from_s: When it begins to hold, unless a grant comes before.
        until_s: When it ends; also when calendar slices and concurrency do that nobody renewed.
    """

    part: float = 0.0
    from_s: float = float("inf")
    until_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One limit in a report; see `LimitReport`."""

    wanted: int
    waiting: int
    held: int
    returned: int = 0
    in_use: int = 0


NOTHING_NEEDED = Need(wanted=0, waiting=0, held=0)


class Lease(ABC):
    """Permits of one limit. `free` and `until_s` decide without a call: `amount <= free and now < until_s`.

    Attributes:
        fade_s: How slowly a demand is forgotten.
        field: Which of the amounts of a call it counts, or `CALLS`.
        free: Permits left. Below 0 calls have used more than they reserved, which later permits make up for.
        until_s: Until when they may be used.
        asked: Amounts that calls asked for since the demand was last measured.
        least: What a call needs of it at least, whatever it was estimated to use.
        over_s: When the limit's window is over; never for most.
        epoch: Number of the last report that told of it.
        refused_until_s: Until when the last answer, that there is nothing, need not be asked for again.
        used: How much of the limit was used and held in the whole mesh, as told with that answer; -1 if nobody knew.
    """

    fade_s: ClassVar[float] = 1.0

    __slots__ = (
        "_demand_per_s",
        "_measured_s",
        "asked",
        "epoch",
        "field",
        "free",
        "key",
        "least",
        "limit",
        "over_s",
        "refused_until_s",
        "until_s",
        "used",
    )

    def __init__(self, *, key: LeaseKey, limit: Limit, now_s: float) -> None:
        self.key = key
        self.limit = limit
        self.field = CALLS if limit.resource == RESOURCE_CONCURRENCY else FIELDS[limit.resource]
        # How long a device computes isn't known before: whoever has nothing left of it doesn't begin.
        self.least = 1 if limit.resource == RESOURCE_DEVICE_MS else 0
        self.over_s = float("inf")
        self.free: int = 0
        self.until_s = 0.0
        self.asked = 0
        self.refused_until_s = 0.0
        self.used = 0
        self.epoch = 0
        self._demand_per_s = 0.0
        self._measured_s = now_s

    def follow_limit(self, limit: Limit) -> None:
        """The limit was changed in its amount or its ways; what was granted stays."""
        self.limit = limit

    @property
    def small(self) -> bool:
        """Whether permits are granted call by call."""
        return self.limit.amount < SMALL

    @property
    def idle(self) -> bool:
        """Whether there is nothing to tell quota about it."""
        return self.free == 0 and self.asked == 0 and self._demand_per_s == 0

    @property
    def most(self) -> int:
        """More than this can't be had at once, ever."""
        return self.limit.amount

    def amount(self, estimate: Amounts) -> int:
        """How much of this limit a call with this estimate needs."""
        return (estimate[self.field] or self.least) if self.field >= 0 else 1

    def renews_in_s(self, now_s: float) -> float:
        """When a limit that is used up lets calls through again, at the latest, seconds from now."""
        return max(0.0, self.over_s - now_s) if self.over_s != float("inf") else 1.0

    def retry_in_s(self, now_s: float) -> float:
        """When asking again makes sense after a refusal, seconds from now."""
        return self.refused_until_s - now_s

    def retire(self, now_s: float) -> None:
        """Expects no calls any more: nothing is kept for them."""
        self.asked = 0
        self._demand_per_s = 0.0
        self._measured_s = now_s

    def share_ready_in_s(self, amount: int, now_s: float, share: Share) -> float | None:
        """Seconds until the share lets `amount` through; None if there is none of this limit."""
        return None

    def available(self, now_s: float, share: Share) -> int:
        """Permits that can be used now."""
        return self.free if now_s < self.until_s else min(self.free, 0)

    def draw(self, amount: int, now_s: float) -> None:
        """Takes permits that are available."""
        self.free -= amount
        self.asked += amount

    @abstractmethod
    def settle(self, estimate: Amounts, actual: Amounts, epoch: int) -> None:
        """Corrects what a call reserved after report number `epoch` to what it used."""

    @abstractmethod
    def need(self, now_s: float, waiting: int, share: Share) -> Need:
        """What the next report says; from here on the gateway keeps to it."""

    def grant(self, need: Need, granted: int, until_s: float) -> None:
        """Takes the answer to `need`."""
        self.free += granted - need.held
        self.until_s = until_s

    def void(self) -> None:
        """Quota doesn't know the limit: nothing holds any more."""
        self.free = min(self.free, 0)

    def demand_per_s(self, now_s: float) -> float:
        """How much calls have asked for lately, a second: follows a rise at once, and a fall by half each `fade_s`."""
        span_s = now_s - self._measured_s
        if span_s >= _DEMAND_SPAN_S:
            rate = self.asked / span_s
            faded = self._demand_per_s * 0.5 ** (span_s / self.fade_s)
            self._demand_per_s = max(rate, faded if faded >= _DEMAND_LEAST_PER_S else 0.0)
            self.asked = 0
            self._measured_s = now_s
        return self._demand_per_s
