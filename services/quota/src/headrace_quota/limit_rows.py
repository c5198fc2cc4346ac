"""Between limits and their rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace_quota.limits import Limit, RateAlgorithm, Resource, Window

Row = Mapping[str, Any]


def limit_from_row(row: Row) -> Limit:
    """The limit that a row of `plan_limits`, `tenant_quotas` or `effective_limits` holds."""
    algorithm = row["algorithm"]
    return Limit(
        model=row["model"],
        resource=Resource(row["resource"]),
        window=Window(row["time_window"]),
        amount=row["amount"],
        period_ms=row["period_ms"],
        burst=row["burst"],
        algorithm=RateAlgorithm(algorithm) if algorithm is not None else None,
    )


def limit_values(limit: Limit) -> dict[str, Any]:
    """A limit as a JSON object with the names of the columns."""
    return {
        "model": limit.model,
        "resource": limit.resource.value,
        "time_window": limit.window.value,
        "amount": limit.amount,
        "period_ms": limit.period_ms,
        "burst": limit.burst,
        "algorithm": limit.algorithm.value if limit.algorithm is not None else None,
    }
