"""The audit log, with asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from headrace_client import rpcs
from headrace_client.contracts.headrace.quota.v1 import audit_pb2
from headrace_client.transport import Transport

_PAGE_SIZE = 1000


class AsyncAudit:
    """Who changed what. A tenant's admins read its own chain, operators any."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def entries(
        self, *, tenant: str = "", method: str = "", actor: str = "", after: int = 0, newest_first: bool = False
    ) -> AsyncGenerator[audit_pb2.AuditEntry, None]:
        """The entries of a tenant's chain, fetched as they are asked for.

        Args:
            tenant: Whose; empty means the caller's tenant.
            method: Only calls of this method, by its full name.
            actor: Only of this key or token, as `key:<id>`.
            after: Only after this place in the chain; not with `newest_first`.
            newest_first: Begin at the end of the chain.
        """
        request = audit_pb2.ListAuditEntriesRequest(
            tenant_id=tenant,
            method=method,
            actor=actor,
            after_sequence=after,
            newest_first=newest_first,
            page_size=_PAGE_SIZE,
        )
        while True:
            page = await self._transport.unary(rpcs.LIST_AUDIT_ENTRIES, request)
            for entry in page.entries:
                yield entry
            if not page.more or not page.entries:
                return
            if newest_first:
                request.before_sequence = page.entries[-1].sequence
            else:
                request.after_sequence = page.entries[-1].sequence
