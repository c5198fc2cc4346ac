"""Limits as people write them: `requests=1000/day`, `magika:tokens=500/10s,burst=2000`."""

from __future__ import annotations

import re

from headrace_client.contracts.headrace.quota.v1 import quotas_pb2
from headrace_client.errors import ValidationError

_FORM = re.compile(
    r"(?:(?P<model>[^:=]+):)?(?P<resource>[a-z_]+)=(?P<amount>[0-9_]+)(?:/(?P<window>[a-z0-9]+))?(?P<options>(?:,[^,]+)*)"
)
_PERIOD = re.compile(r"(?P<number>[0-9]*)(?P<unit>ms|s|m|h)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_CALENDAR = {
    "hour": quotas_pb2.WINDOW_HOUR,
    "day": quotas_pb2.WINDOW_DAY,
    "month": quotas_pb2.WINDOW_MONTH,
}
_RESOURCES = {
    name.removeprefix("RESOURCE_").lower(): number for name, number in quotas_pb2.Resource.items() if number != 0
}
_UNIT_OF_MS = (("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


def limit_of(text: str) -> quotas_pb2.Limit:
    """The limit that a text says.

    Args:
        text: `[MODEL:]RESOURCE=AMOUNT[/WINDOW][,burst=N][,sliding]`. RESOURCE is `requests`, `tokens`, `input_bytes`,
            `device_ms` or `concurrency`. WINDOW is `hour`, `day` or `month` (the calendar's, UTC), or for a rate a time
            as `s`, `10s`, `5m` or `1h`; concurrency has none. `burst` is what a rate allows at once after a pause,
            `sliding` keeps it exactly within each window of its time.

    Raises:
        ValidationError: the text isn't of that form; what numbers make sense, the mesh says.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise _bad(text, "write it as [MODEL:]RESOURCE=AMOUNT[/WINDOW][,burst=N][,sliding]")
    resource = _RESOURCES.get(found["resource"])
    if resource is None:
        raise _bad(text, f"the resource must be one of {', '.join(_RESOURCES)}")
    limit = quotas_pb2.Limit(model=found["model"] or "", resource=resource, amount=_number(text, found["amount"]))
    _set_window(limit, found["window"], text)
    for option in found["options"].split(",")[1:]:
        name, _, value = option.strip().partition("=")
        if name == "burst":
            limit.burst = _number(text, value)
        elif option.strip() == "sliding":
            limit.algorithm = quotas_pb2.RATE_ALGORITHM_SLIDING_WINDOW
        else:
            raise _bad(text, f"there is no option '{option.strip()}', only burst=N and sliding")
    return limit


def limit_text(limit: quotas_pb2.Limit) -> str:
    """The text that says a limit, as short as it can be."""
    resource = quotas_pb2.Resource.Name(limit.resource).removeprefix("RESOURCE_").lower()
    text = f"{limit.model}:" * bool(limit.model) + f"{resource}={limit.amount}"
    if limit.window == quotas_pb2.WINDOW_MOMENT:
        return text
    if limit.window != quotas_pb2.WINDOW_RATE:
        return f"{text}/{quotas_pb2.Window.Name(limit.window).removeprefix('WINDOW_').lower()}"
    period_ms = limit.period.ToMilliseconds() if limit.HasField("period") else 1_000
    unit, unit_ms = next((unit, unit_ms) for unit, unit_ms in _UNIT_OF_MS if period_ms % unit_ms == 0)
    number = period_ms // unit_ms
    # `1h` and not `h`, which would look like the calendar's hour.
    text += f"/{'' if number == 1 and unit == 's' else number}{unit}"
    if limit.algorithm == quotas_pb2.RATE_ALGORITHM_SLIDING_WINDOW:
        return text + ",sliding"
    return text + f",burst={limit.burst}" * (limit.burst not in (0, limit.amount))


def _set_window(limit: quotas_pb2.Limit, window: str | None, text: str) -> None:
    if window is None:
        if limit.resource != quotas_pb2.RESOURCE_CONCURRENCY:
            raise _bad(text, "give it a window: hour, day, month, or for a rate a time as 10s")
        limit.window = quotas_pb2.WINDOW_MOMENT
        return
    calendar = _CALENDAR.get(window)
    if calendar is not None:
        limit.window = calendar
        return
    period = _PERIOD.fullmatch(window)
    if period is None:
        raise _bad(text, "the window must be hour, day or month, or for a rate a time as s, 10s, 5m or 1h")
    limit.window = quotas_pb2.WINDOW_RATE
    # Far more than any time that the mesh takes, and what a duration still holds.
    limit.period.FromMilliseconds(min(_number(text, period["number"] or "1") * _UNIT_MS[period["unit"]], 10**12))


def _number(text: str, digits: str) -> int:
    """A number that fits the contract's 64 bits; larger ones are refused here, as they are there."""
    if not re.fullmatch(r"[0-9]+(_[0-9]+)*", digits) or len(digits) > 30 or int(digits) >= 2**63:
        raise _bad(text, f"'{digits[:40]}' is no number that can be a limit")
    return int(digits)


def _bad(text: str, why: str) -> ValidationError:
    return ValidationError(f"'{text[:80]}' is no limit: {why}", field="limits")
