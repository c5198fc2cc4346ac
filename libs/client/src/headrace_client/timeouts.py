"""Time limits as callers give them."""

from __future__ import annotations

import math

from headrace_client.errors import ValidationError

TIMEOUT_MAX_S = 86_400.0
"""A day: no mesh takes longer for a call."""


def checked_timeout_s(timeout_s: float) -> float:
    """The limit in seconds, a day at most.

    Raises:
        ValidationError: it is not a number above 0, or endless: every call has a deadline.
    """
    try:
        checked = float(timeout_s)
    except (TypeError, ValueError):
        checked = math.nan
    if not (math.isfinite(checked) and checked > 0):
        raise ValidationError(f"timeout_s must be a number of seconds above 0, not {timeout_s!r}", field="timeout_s")
    return min(checked, TIMEOUT_MAX_S)
