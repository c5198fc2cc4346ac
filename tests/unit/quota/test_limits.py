"""Which limits make sense, what is filled in, and which ones hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common.errors import ValidationError
from headrace_quota.limit_messages import limit_message, limits_from
from headrace_quota.limits import (
    AMOUNT_MAX,
    LIMITS_MAX,
    EffectiveLimit,
    Limit,
    RateAlgorithm,
    Resource,
    Window,
    checked_limits,
    effective_limits,
)

DAILY = Limit(model="", resource=Resource.REQUESTS, window=Window.DAY, amount=10)
RATE = Limit(model="", resource=Resource.TOKENS, window=Window.RATE, amount=10)
GCRA, SLIDING = RateAlgorithm.GCRA, RateAlgorithm.SLIDING_WINDOW


def refused(*limits: Limit) -> ValidationError:
    with pytest.raises(ValidationError) as failure:
        checked_limits(limits, field="limits")
    return failure.value


def wire_refused(**fields: object) -> ValidationError:
    values = {"resource": pb.RESOURCE_TOKENS, "window": pb.WINDOW_RATE, "amount": 1} | fields
    with pytest.raises(ValidationError) as failure:
        checked_limits(limits_from([pb.Limit(**values)], field="limits"), field="limits")  # pyright: ignore[reportArgumentType]
    return failure.value


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        (replace(DAILY, amount=0), "amount"),
        (replace(DAILY, amount=-1), "amount"),
        (replace(DAILY, amount=-(2**63)), "amount"),
        (replace(DAILY, amount=AMOUNT_MAX + 1), "amount"),
        (replace(DAILY, amount=2**63 - 1), "amount"),
        (replace(DAILY, window=Window.MOMENT), "window"),
        (replace(DAILY, resource=Resource.CONCURRENCY), "window"),
        (replace(RATE, resource=Resource.CONCURRENCY), "window"),
        (replace(RATE, resource=Resource.INPUT_BYTES), "resource"),
        (replace(RATE, resource=Resource.DEVICE_MS), "resource"),
        (replace(RATE, period_ms=0), "period"),
        (replace(RATE, period_ms=999), "period"),
        (replace(RATE, period_ms=-1000), "period"),
        (replace(RATE, period_ms=3_600_001), "period"),
        (replace(RATE, burst=-1), "burst"),
        (replace(RATE, burst=AMOUNT_MAX + 1), "burst"),
        (replace(RATE, burst=1, algorithm=SLIDING), "burst"),
        (replace(DAILY, burst=1), "burst"),
        (replace(DAILY, burst=-1), "burst"),
        (replace(DAILY, period_ms=1000), "period"),
        (replace(DAILY, algorithm=GCRA), "algorithm"),
        (replace(DAILY, model="bad name"), "model"),
        (replace(DAILY, model="-dash"), "model"),
        (replace(DAILY, model="m" * 129), "model"),
        (replace(DAILY, model="m\0"), "model"),
        (replace(DAILY, model="m\n"), "model"),
        (replace(DAILY, model="é"), "model"),
    ],
)
def test_limit_that_makes_no_sense_is_refused_by_its_field(limit: Limit, field: str) -> None:
    failure = refused(DAILY, replace(DAILY, window=Window.HOUR), limit)
    assert (failure.reason, failure.field) == ("FIELD_INVALID", f"limits[2].{field}")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"resource": 0}, "resource"),
        ({"resource": 6}, "resource"),
        ({"resource": -1}, "resource"),
        ({"window": 0}, "window"),
        ({"window": 99}, "window"),
        ({"algorithm": 3}, "algorithm"),
        ({"period": {"seconds": 1, "nanos": 1}}, "period"),
        ({"period": {"seconds": 2**40}}, "period"),
        ({"period": {"seconds": -5}}, "period"),
        ({"period": {}}, "period"),
    ],
)
def test_number_without_a_meaning_is_refused_by_its_field(fields: dict[str, object], field: str) -> None:
    failure = wire_refused(**fields)
    assert (failure.reason, failure.field) == ("FIELD_INVALID", f"limits[0].{field}")


def test_limits_that_overlap_are_refused_and_both_places_are_named() -> None:
    failure = refused(DAILY, RATE, replace(DAILY, amount=11))
    assert failure.field == "limits[2]"
    assert "limits[0]" in failure.message


def test_too_many_limits_are_refused() -> None:
    many = [replace(DAILY, model=f"m{number}") for number in range(LIMITS_MAX + 1)]
    assert refused(*many).reason == "FIELD_TOO_LONG"
    assert len(checked_limits(many[:LIMITS_MAX], field="limits")) == LIMITS_MAX


def test_what_a_rate_leaves_out_is_filled_in() -> None:
    (plain,) = checked_limits([RATE], field="limits")
    assert plain == replace(RATE, period_ms=1000, burst=10, algorithm=GCRA)
    (sliding,) = checked_limits([replace(RATE, algorithm=SLIDING, burst=0, period_ms=3_600_000)], field="limits")
    assert sliding == replace(RATE, algorithm=SLIDING, burst=None, period_ms=3_600_000)
    (zero,) = checked_limits([replace(DAILY, burst=0)], field="limits")
    assert zero == DAILY


def test_checked_limit_survives_the_wire() -> None:
    every = checked_limits(
        [
            RATE,
            DAILY,
            replace(RATE, model="m.1_x-Y", algorithm=SLIDING, period_ms=1500),
            replace(DAILY, resource=Resource.CONCURRENCY, window=Window.MOMENT, amount=AMOUNT_MAX),
        ],
        field="limits",
    )
    assert checked_limits(limits_from(map(limit_message, every), field="limits"), field="limits") == every


def test_own_limit_replaces_the_plans_of_the_same_model_resource_and_window() -> None:
    own = replace(DAILY, amount=99)
    planned = (DAILY, replace(DAILY, model="m"))
    assert effective_limits([own], planned) == (
        EffectiveLimit(own, own=True),
        EffectiveLimit(planned[1], own=False),
    )
