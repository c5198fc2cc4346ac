"""When calendar windows begin and end, in UTC. The database's `window_start` and `window_end` say the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from headrace_quota.limits import Window


def window_bounds(window: Window, at: datetime) -> tuple[datetime, datetime]:
    """When the HOUR, DAY or MONTH of an instant began, and when the next one begins."""
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    match window:
        case Window.HOUR:
            return hour, hour + timedelta(hours=1)
        case Window.DAY:
            day = hour.replace(hour=0)
            return day, day + timedelta(days=1)
        case Window.MONTH:
            month = hour.replace(hour=0, day=1)
            return month, (month + timedelta(days=32)).replace(day=1)
        case _:
            raise ValueError(f"{window} has no calendar")
