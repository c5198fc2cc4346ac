"""What is used and held of a limit, by the fields that leases leave in Valkey."""

from __future__ import annotations

from headrace_quota.leases.live_permits import live_use
from headrace_quota.limits import Limit, RateAlgorithm, Resource, Window, checked_limits
from headrace_quota.live_usage import LiveUse

NOW_MS = 1_000_000.0


def rate(algorithm: RateAlgorithm) -> Limit:
    wanted = Limit(
        model="",
        resource=Resource.REQUESTS,
        window=Window.RATE,
        amount=10,
        period_ms=1_000,
        burst=20 if algorithm is RateAlgorithm.GCRA else None,
        algorithm=algorithm,
    )
    return checked_limits([wanted], field="limits")[0]


BUCKET, SLIDING = rate(RateAlgorithm.GCRA), rate(RateAlgorithm.SLIDING_WINDOW)
AT_ONCE = Limit(model="", resource=Resource.CONCURRENCY, window=Window.MOMENT, amount=9)


def test_limit_that_nobody_asked_for_is_untouched() -> None:
    for limit in (BUCKET, SLIDING, AT_ONCE):
        assert live_use(limit, {}, NOW_MS) == LiveUse(used=0, held=0)


def test_bucket_has_used_what_is_neither_there_nor_held_and_fills_up_again() -> None:
    fields = {
        "level": "5",
        "at": str(NOW_MS),
        "g:a": f"4 {NOW_MS + 1} 0",
        "g:b": f"3 {NOW_MS} 0",
    }
    assert live_use(BUCKET, fields, NOW_MS) == LiveUse(used=11, held=4)
    assert live_use(BUCKET, fields, NOW_MS + 500) == LiveUse(used=10, held=0)
    assert live_use(BUCKET, fields, NOW_MS + 60_000) == LiveUse(used=0, held=0)


def test_window_counts_slots_that_have_not_slid_out_and_permits_that_lapsed() -> None:
    width_ms = 10
    slot = int(NOW_MS / width_ms)
    fields = {
        f"s:{slot}": "2",
        f"s:{slot - 50}": "3",
        f"s:{slot - 101}": "4",
        "g:a": f"1 {NOW_MS + 5} 0",
        "g:b": f"2 {NOW_MS - 5} 0",
    }
    assert live_use(SLIDING, fields, NOW_MS) == LiveUse(used=7, held=1)


def test_concurrency_is_what_gateways_said_is_under_way() -> None:
    fields = {"g:a": f"5 {NOW_MS * 2} 0", "u:a": "3", "g:b": f"2 {NOW_MS * 2} 0", "u:b": "2"}
    assert live_use(AT_ONCE, fields, NOW_MS) == LiveUse(used=5, held=2)
