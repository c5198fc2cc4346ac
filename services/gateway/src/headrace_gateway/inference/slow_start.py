"""The share of calls that a replica gets while it warms up."""

from __future__ import annotations

SHARE_FIRST = 0.1


def share(age_s: float, ramp_s: float) -> float:
    """From a tenth at age 0 to all of it at age `ramp_s`, rising steadily; all of it at once where `ramp_s` is 0."""
    age_s = max(0.0, age_s)
    if age_s >= ramp_s:
        return 1.0
    return SHARE_FIRST + (1.0 - SHARE_FIRST) * age_s / ramp_s
