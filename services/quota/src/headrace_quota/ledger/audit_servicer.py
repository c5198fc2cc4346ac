"""`headrace.quota.v1.AuditService`: a tenant's chain of administrative calls, for its admins and for operators."""

from __future__ import annotations

from typing import Any

from headrace.quota.v1 import audit_pb2 as pb
from headrace_common.errors import ValidationError
from headrace_common.grpc_server import Call, RpcMethod, unary
from headrace_quota.ledger.ledger_reader import LedgerReader
from headrace_quota.ledger.messages import audit_message
from headrace_quota.paging import page_of, page_size
from headrace_quota.tenant_access import is_operator, require_admin, visible_tenant

AUDIT_SERVICE = "headrace.quota.v1.AuditService"
_DECIDED_INSIDE = "any"
_SEQUENCE_MAX = (1 << 63) - 1


class AuditServicer:
    """Answers the public RPC about the audit log."""

    def __init__(self, *, ledger: LedgerReader) -> None:
        self._ledger = ledger

    async def list_audit_entries(self, request: pb.ListAuditEntriesRequest, call: Call) -> pb.ListAuditEntriesResponse:
        """A page of a chain.

        Raises:
            TenantError: TENANT_NOT_FOUND (NOT_FOUND) for foreign tenants.
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an admin.
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT).
        """
        tenant_id = visible_tenant(call.principal, request.tenant_id, field="tenant_id")
        if not is_operator(call.principal):
            require_admin(call.principal)
        if tenant_id != call.principal.tenant_id:
            await self._ledger.check_tenant(tenant_id)
        for field in ("method", "actor"):
            value: str = getattr(request, field)
            if len(value) > 256 or "\0" in value:
                raise _invalid(field, "may have 256 characters at most, and no NUL")
        position, other = (
            ("before_sequence", "after_sequence") if request.newest_first else ("after_sequence", "before_sequence")
        )
        if getattr(request, other):
            raise _invalid(other, f"must be 0 where newest_first is {str(request.newest_first).lower()}")
        if getattr(request, position) < 0:
            raise _invalid(position, f"must be 0 to {_SEQUENCE_MAX}")
        size = page_size(request.page_size)
        rows = await self._ledger.audit_entries(
            tenant_id,
            position=getattr(request, position),
            newest_first=request.newest_first,
            method=request.method,
            actor=request.actor,
            limit=size + 1,
        )
        shown, last = page_of(rows, size)
        return pb.ListAuditEntriesResponse(entries=[audit_message(row) for row in shown], more=last is not None)

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """The method by name, for the service's handler."""
        return {
            "ListAuditEntries": unary(
                self.list_audit_entries,
                pb.ListAuditEntriesRequest,
                pb.ListAuditEntriesResponse,
                role=_DECIDED_INSIDE,
            )
        }


def _invalid(field: str, why: str) -> ValidationError:
    return ValidationError(f"{field} {why}", context={"field": field}, field=field)
