"""Isolation of tenants; policies, use and rotation of keys."""

from __future__ import annotations

from headrace_common.migrations import sql_revision

revision = "0003"
down_revision = "0002"
upgrade = sql_revision(__file__)
