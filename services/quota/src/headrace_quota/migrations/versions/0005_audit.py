"""The audit log."""

from __future__ import annotations

from headrace_common.migrations import sql_revision

revision = "0005"
down_revision = "0004"
upgrade = sql_revision(__file__)
