"""Times as people type them: a date, a date with a time, or how long ago. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def moment_of(text: str, *, now: datetime) -> datetime:
    """`2026-01-31`, `2026-01-31T12:00` (both UTC unless a zone stands there), or `90m`, `24h`, `7d` ago.

    Raises:
        ValueError: It is none of these; its text says what may be given.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now - int(ago[1]) * _UNITS[ago[2]]
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("write it as 2026-01-31, 2026-01-31T12:00, 90m, 24h or 7d") from None
