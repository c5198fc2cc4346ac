"""Plans, limits, and counters of calendar quotas."""

from __future__ import annotations

from headrace_common.migrations import sql_revision

revision = "0002"
down_revision = "0001"
upgrade = sql_revision(__file__)
