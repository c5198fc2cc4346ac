"""The share of a replica that warms up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace_gateway.inference.slow_start import SHARE_FIRST, share

ages_s = st.floats(-10.0, 1e6)


@given(first_s=ages_s, second_s=ages_s, ramp_s=st.floats(0.0, 600.0))
def test_share_never_falls_and_is_never_nothing_or_more_than_all(
    first_s: float, second_s: float, ramp_s: float
) -> None:
    earlier, later = sorted((first_s, second_s))
    assert SHARE_FIRST <= share(earlier, ramp_s) <= share(later, ramp_s) <= 1.0
    assert share(ramp_s, ramp_s) == 1.0


def test_half_way_up_it_is_about_half() -> None:
    assert share(5.0, 10.0) == 0.55
