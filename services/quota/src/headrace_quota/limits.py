"""What a limit is, which ones make sense, and which of a tenant's and its plan's hold. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from headrace_common import catalogue
from headrace_common.errors import ValidationError

AMOUNT_MAX = 10**15
PERIOD_MS_MIN = 1_000
PERIOD_MS_MAX = 3_600_000
LIMITS_MAX = 100

_MODEL_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")


class Resource(StrEnum):
    """What a limit counts."""

    REQUESTS = "REQUESTS"
    TOKENS = "TOKENS"
    INPUT_BYTES = "INPUT_BYTES"
    DEVICE_MS = "DEVICE_MS"
    CONCURRENCY = "CONCURRENCY"


class Window(StrEnum):
    """Over what time a limit counts: sliding, at the moment, or a calendar window in UTC."""

    RATE = "RATE"
    MOMENT = "MOMENT"
    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"

    @property
    def calendar(self) -> bool:
        """Whether it begins and ends with the calendar's, and starts at nothing again."""
        return self in _CALENDAR


_CALENDAR = frozenset({Window.HOUR, Window.DAY, Window.MONTH})
_RATED = frozenset({Resource.REQUESTS, Resource.TOKENS})


class RateAlgorithm(StrEnum):
    """How a rate is kept: a token bucket, or an exact window that slides."""

    GCRA = "GCRA"
    SLIDING_WINDOW = "SLIDING_WINDOW"


class LimitKey(NamedTuple):
    """What a set holds one limit of. An empty model means all models together."""

    model: str
    resource: Resource
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The most that a tenant may use.

    Attributes:
        model: Empty means all models of the tenant together.
        period_ms: RATE only: milliseconds in which `amount` may be used.
        burst: GCRA only: how much may be used at once after a pause.
        algorithm: RATE only.
    """

    model: str
    resource: Resource
    window: Window
    amount: int
    period_ms: int | None = None
    burst: int | None = None
    algorithm: RateAlgorithm | None = None

    @property
    def key(self) -> LimitKey:
        """What there can be one limit of."""
        return LimitKey(self.model, self.resource, self.window)


@dataclass(frozen=True, slots=True)
class EffectiveLimit:
    """A limit that holds for a tenant, and whether it is the tenant's own and not its plan's."""

    limit: Limit
    own: bool


def checked_limits(limits: Sequence[Limit], *, field: str) -> tuple[Limit, ...]:
    """The limits with what was left out filled in, ordered by model, resource and window.

    A rate without a period is per second, one without an algorithm is GCRA; GCRA without a burst (None or 0) allows
    `amount` at once.

    Args:
        limits: The limits as they were given.
        field: The request's field that holds them; failures name `<field>[3].amount`.

    Raises:
        ValidationError: FIELD_INVALID or FIELD_TOO_LONG (INVALID_ARGUMENT).
    """
    if len(limits) > LIMITS_MAX:
        raise ValidationError(
            f"{field} has {len(limits)} limits, at most {LIMITS_MAX} are allowed",
            entry=catalogue.FIELD_TOO_LONG,
            context={"field": field, "limit": LIMITS_MAX},
            field=field,
        )
    checked: list[Limit] = []
    places: dict[LimitKey, int] = {}
    for place, limit in enumerate(limits):
        _check_one(limit, field=f"{field}[{place}]")
        former = places.setdefault(limit.key, place)
        if former != place:
            raise _invalid(f"{field}[{place}]", f"repeats the model, resource and window of {field}[{former}]")
        checked.append(_completed(limit))
    return tuple(sorted(checked, key=lambda limit: limit.key))


def effective_limits(own: Iterable[Limit], planned: Iterable[Limit]) -> tuple[EffectiveLimit, ...]:
    """The limits that hold: a tenant's own, and those of its plan that none of them replaces; ordered by key."""
    held = {limit.key: EffectiveLimit(limit, own=False) for limit in planned}
    held.update((limit.key, EffectiveLimit(limit, own=True)) for limit in own)
    return tuple(held[key] for key in sorted(held))


def check_model(model: str, *, field: str) -> None:
    """Raises FIELD_INVALID (INVALID_ARGUMENT) for what is neither empty nor a model's name."""
    if model and _MODEL_NAME.fullmatch(model) is None:
        raise _invalid(
            field, "must be empty, or a letter or digit followed by up to 127 letters, digits, '.', '_' or '-'"
        )


def _check_one(limit: Limit, *, field: str) -> None:
    check_model(limit.model, field=f"{field}.model")
    if (limit.resource is Resource.CONCURRENCY) != (limit.window is Window.MOMENT):
        raise _invalid(f"{field}.window", "must be MOMENT for CONCURRENCY, and for nothing else")
    if not 1 <= limit.amount <= AMOUNT_MAX:
        raise _invalid(f"{field}.amount", f"must be 1 to {AMOUNT_MAX}")
    if limit.window is not Window.RATE:
        _check_plain(limit, field=field)
        return
    if limit.resource not in _RATED:
        raise _invalid(f"{field}.resource", "must be REQUESTS or TOKENS where the window is RATE")
    if limit.period_ms is not None and not PERIOD_MS_MIN <= limit.period_ms <= PERIOD_MS_MAX:
        raise _invalid(f"{field}.period", "must be 1 s to 1 h")
    burst = limit.burst or 0
    if limit.algorithm is RateAlgorithm.SLIDING_WINDOW and burst:
        raise _invalid(f"{field}.burst", "must be left out where the algorithm is SLIDING_WINDOW")
    if not 0 <= burst <= AMOUNT_MAX:
        raise _invalid(f"{field}.burst", f"must be 1 to {AMOUNT_MAX}, or 0 for the amount")


def _check_plain(limit: Limit, *, field: str) -> None:
    """Nothing that only a rate has."""
    given = {
        "period": limit.period_ms is not None,
        "burst": bool(limit.burst),
        "algorithm": limit.algorithm is not None,
    }
    for name, present in given.items():
        if present:
            raise _invalid(f"{field}.{name}", "must be left out unless the window is RATE")


def _completed(limit: Limit) -> Limit:
    if limit.window is not Window.RATE:
        return replace(limit, burst=None)
    algorithm = limit.algorithm or RateAlgorithm.GCRA
    return replace(
        limit,
        period_ms=limit.period_ms or PERIOD_MS_MIN,
        algorithm=algorithm,
        burst=(limit.burst or limit.amount) if algorithm is RateAlgorithm.GCRA else None,
    )


def _invalid(field: str, rule: str) -> ValidationError:
    return ValidationError(f"{field} {rule}", entry=catalogue.FIELD_INVALID, context={"field": field}, field=field)
