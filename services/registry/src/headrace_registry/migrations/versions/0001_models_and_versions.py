"""Models, versions, artefacts and the history that gateways follow."""

from __future__ import annotations

from headrace_common.migrations import sql_revision

revision = "0001"
down_revision = None
upgrade = sql_revision(__file__)
