"""What a call is told that its tenant's limits don't let through."""

from __future__ import annotations

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import QuotaExceeded, QuotaUnavailable

_RESOURCES = {
    pb.RESOURCE_REQUESTS: "requests",
    pb.RESOURCE_TOKENS: "tokens",
    pb.RESOURCE_INPUT_BYTES: "input bytes",
    pb.RESOURCE_DEVICE_MS: "device milliseconds",
    pb.RESOURCE_CONCURRENCY: "calls at once",
}
_WINDOWS = {pb.WINDOW_HOUR: "hour", pb.WINDOW_DAY: "day", pb.WINDOW_MONTH: "month"}
_ENTRIES = {
    pb.WINDOW_RATE: catalogue.RATE_LIMIT_EXCEEDED,
    pb.WINDOW_MOMENT: catalogue.CONCURRENCY_LIMIT_EXCEEDED,
}


def exceeded(limit: pb.Limit, *, used: int, retry_after_s: float) -> QuotaExceeded:
    """RESOURCE_EXHAUSTED: the limit is reached, in the mesh or in this gateway's part of it.

    Args:
        limit: The limit.
        used: How much of it is used and held.
        retry_after_s: When asking again makes sense.
    """
    what, window = _RESOURCES[limit.resource], _window(limit)
    whose = f"model {limit.model}" if limit.model else "tenant"
    return QuotaExceeded(
        f"the {whose}'s limit of {limit.amount} {what}{f' per {window}' if window else ''} is reached, {used} are used "
        "or held",
        entry=_ENTRIES.get(limit.window, catalogue.QUOTA_EXCEEDED),
        context={
            "quotaType": f"{what} per {window}" if window else what,
            "currentUsage": used,
            "limit": limit.amount,
            "window": window,
        },
        retry_after_s=retry_after_s,
    )


def unavailable(limit: pb.Limit, *, retry_after_s: float) -> QuotaUnavailable:
    """UNAVAILABLE: nobody can say whether the limit allows the call, and this gateway's share is used up or none."""
    return QuotaUnavailable(
        f"permits of the limit of {_RESOURCES[limit.resource]} can't be had at the moment", retry_after_s=retry_after_s
    )


def resource_name(limit: pb.Limit) -> str:
    """What a limit counts, for metrics."""
    return pb.Resource.Name(limit.resource).removeprefix("RESOURCE_").lower()


def _window(limit: pb.Limit) -> str:
    if limit.window == pb.WINDOW_RATE:
        return f"{limit.period.seconds + limit.period.nanos / 1e9 or 1:g} s"
    return _WINDOWS.get(limit.window, "")
