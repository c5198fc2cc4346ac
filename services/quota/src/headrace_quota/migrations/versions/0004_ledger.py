"""The usage ledger, its hourly sums, and what happened to runners."""

from __future__ import annotations

from headrace_common.migrations import sql_revision

revision = "0004"
down_revision = "0003"
upgrade = sql_revision(__file__)
