"""What gateways hold of calendar quotas."""

from __future__ import annotations

from headrace_common.migrations import sql_revision

revision = "0006"
down_revision = "0005"
upgrade = sql_revision(__file__)
