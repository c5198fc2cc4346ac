"""Who computes with lower priority: whoever had more than the equal part of late, and nobody who is alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.execution.tenant_use import TenantUse


def used(*uses: tuple[str, float], now: float = 0.0) -> TenantUse:
    use = TenantUse()
    for tenant, seconds in uses:
        use.used(tenant, seconds, now)
    return use


def test_a_tenant_that_is_alone_is_never_above() -> None:
    assert not used(("a", 100.0)).is_above("a", 0.0)


def test_who_has_had_much_more_than_the_others_is_above() -> None:
    use = used(("a", 1.0), ("b", 0.2))
    assert use.is_above("a", 0.0)
    assert not use.is_above("b", 0.0)
    assert not use.is_above("new", 0.0)


def test_equal_parts_are_nobody_s_excess() -> None:
    use = used(("a", 1.0), ("b", 0.9), ("c", 1.1))
    assert not any(use.is_above(tenant, 0.0) for tenant in "abc")


def test_what_was_long_ago_does_not_count() -> None:
    use = used(("a", 10.0), ("b", 0.5))
    use.used("b", 0.5, 10.0)
    assert not use.is_above("a", 10.0)
    assert not use.is_above("b", 30.0)


@given(st.dictionaries(st.text(max_size=3), st.floats(0.01, 100), min_size=1, max_size=8))
def test_never_is_everybody_above(uses: dict[str, float]) -> None:
    use = used(*uses.items())
    assert not all(use.is_above(tenant, 0.0) for tenant in uses)
