"""The audit log, blocking."""

from __future__ import annotations

from collections.abc import Generator

from headrace_client.async_audit import AsyncAudit
from headrace_client.contracts.headrace.quota.v1 import audit_pb2
from headrace_client.loop_thread import LoopThread


class Audit:
    """Who changed what; see `AsyncAudit` for what arguments and answers mean."""

    def __init__(self, audit: AsyncAudit, loop: LoopThread) -> None:
        self._audit = audit
        self._loop = loop

    def entries(
        self, *, tenant: str = "", method: str = "", actor: str = "", after: int = 0, newest_first: bool = False
    ) -> Generator[audit_pb2.AuditEntry, None, None]:
        """The entries of a tenant's chain, fetched as they are asked for."""
        return self._loop.iterate(
            self._audit.entries(tenant=tenant, method=method, actor=actor, after=after, newest_first=newest_first)
        )
