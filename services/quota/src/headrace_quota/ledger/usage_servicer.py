"""`headrace.quota.v1.UsageService`: who may ask, for what span, and the answer page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.quota.v1 import usage_pb2 as pb
from headrace_common.clock import Clock
from headrace_common.errors import ValidationError
from headrace_common.grpc_server import Call, RpcMethod, unary
from headrace_common.rpc_method import server_stream
from headrace_quota.ledger.ledger_reader import LedgerReader, Position, RequestFilter
from headrace_quota.ledger.messages import request_message, runner_event_message, sum_message
from headrace_quota.ledger.rows import STATUS_NAMES
from headrace_quota.messages import instant_from
from headrace_quota.paging import page_of, page_size, time_position, time_token
from headrace_quota.tenant_access import require_operator, visible_tenant

USAGE_SERVICE = "headrace.quota.v1.UsageService"
# As in the tenant servicer: a foreign tenant must look absent before any role is looked at.
_DECIDED_INSIDE = "any"
_PAGE_ROWS = 1_000
_SUMS_MAX = 10_000
_SPAN_MAX = timedelta(days=366)
_SPANS = {
    pb.GRANULARITY_UNSPECIFIED: "day",
    pb.GRANULARITY_HOUR: "hour",
    pb.GRANULARITY_DAY: "day",
    pb.GRANULARITY_MONTH: "month",
}


class UsageServicer:
    """Answers the public RPCs about usage. All raise TENANT_NOT_FOUND (NOT_FOUND) for foreign tenants."""

    def __init__(self, *, ledger: LedgerReader, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def list_requests(self, request: pb.ListRequestsRequest, call: Call) -> pb.ListRequestsResponse:
        """A page of the ledger; reads one row more than shown to know whether another page follows."""
        tenant_id = await self._tenant(call, request.tenant_id)
        status = STATUS_NAMES.get(request.status, "")
        if request.status and not status:
            raise _invalid("status", "is not one that the contract knows")
        now = self._clock.now()
        start_time, end_time = _times(request, now - timedelta(days=1), now)
        wanted = RequestFilter(
            tenant_id=tenant_id,
            start_time=start_time,
            end_time=end_time,
            model=_text(request.model, "model"),
            status=status,
            request_id=_text(request.request_id, "request_id"),
            subject=_text(request.subject, "subject"),
        )
        listing = {
            "listing": "requests",
            "tenant_id": tenant_id,
            "model": wanted.model,
            "status": status,
            "request_id": wanted.request_id,
            "subject": wanted.subject,
        }
        size = page_size(request.page_size)
        after = time_position(request.page_token, listing)
        rows = await self._ledger.requests(wanted, after=None if after is None else Position(*after), limit=size + 1)
        shown, last = page_of(rows, size)
        token = "" if last is None else time_token(listing, last["admitted_at"], str(last["id"]))
        return pb.ListRequestsResponse(requests=[request_message(row) for row in shown], next_page_token=token)

    async def export_requests(
        self, request: pb.ExportRequestsRequest, call: Call
    ) -> AsyncIterator[pb.ExportRequestsResponse]:
        """The ledger of a span, 1000 rows a message, each read when the one before has gone out."""
        tenant_id = await self._tenant(call, request.tenant_id)
        for field in ("start_time", "end_time"):
            if not request.HasField(field):
                raise _invalid(field, "is required")
        start_time, end_time = _span(request, self._clock.now(), self._clock.now())
        after: Position | None = None
        while True:
            rows = await self._ledger.export(tenant_id, start_time, end_time, after=after, limit=_PAGE_ROWS)
            if rows:
                yield pb.ExportRequestsResponse(requests=[request_message(row) for row in rows])
            if len(rows) < _PAGE_ROWS:
                return
            after = Position(rows[-1]["admitted_at"], str(rows[-1]["id"]))

    async def summarize_usage(self, request: pb.SummarizeUsageRequest, call: Call) -> pb.SummarizeUsageResponse:
        """Sums of hours."""
        tenant_id = await self._tenant(call, request.tenant_id)
        span = _SPANS.get(request.granularity)
        if span is None:
            raise _invalid("granularity", "is not one that the contract knows")
        now = self._clock.now().astimezone(UTC)
        start_time, end_time = _span(request, now.replace(day=1, hour=0, minute=0, second=0, microsecond=0), now)
        rows = await self._ledger.sums(
            tenant_id,
            start_time.astimezone(UTC).replace(minute=0, second=0, microsecond=0),
            end_time,
            model=_text(request.model, "model"),
            span=span,
            limit=_SUMS_MAX + 1,
        )
        if len(rows) > _SUMS_MAX:
            raise _invalid("granularity", f"gives more than {_SUMS_MAX} sums: ask for a coarser one, or a shorter span")
        return pb.SummarizeUsageResponse(sums=[sum_message(row) for row in rows])

    async def list_runner_events(self, request: pb.ListRunnerEventsRequest, call: Call) -> pb.ListRunnerEventsResponse:
        """A page of what happened to runners.

        Raises:
            AuthError: ROLE_FORBIDDEN (PERMISSION_DENIED) for who isn't an operator.
        """
        require_operator(call.principal)
        now = self._clock.now()
        start_time = _time(request.start_time, "start_time", request.HasField("start_time"), now - timedelta(days=7))
        runner_id = _text(request.runner_id, "runner_id")
        listing = {"listing": "runner_events", "runner_id": runner_id}
        size = page_size(request.page_size)
        after = time_position(request.page_token, listing)
        if after is not None and not after[1].isdecimal():
            raise _invalid("page_token", "is damaged or belongs to another query")
        rows = await self._ledger.runner_events(
            runner_id=runner_id,
            start_time=start_time,
            after=None if after is None else Position(*after),
            limit=size + 1,
        )
        shown, last = page_of(rows, size)
        token = "" if last is None else time_token(listing, last["event_at"], str(last["id"]))
        return pb.ListRunnerEventsResponse(events=[runner_event_message(row) for row in shown], next_page_token=token)

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """Each method by name, for the service's handler."""
        return {
            "ListRequests": unary(
                self.list_requests, pb.ListRequestsRequest, pb.ListRequestsResponse, role=_DECIDED_INSIDE
            ),
            "ExportRequests": server_stream(
                self.export_requests, pb.ExportRequestsRequest, pb.ExportRequestsResponse, role=_DECIDED_INSIDE
            ),
            "SummarizeUsage": unary(
                self.summarize_usage, pb.SummarizeUsageRequest, pb.SummarizeUsageResponse, role=_DECIDED_INSIDE
            ),
            "ListRunnerEvents": unary(
                self.list_runner_events, pb.ListRunnerEventsRequest, pb.ListRunnerEventsResponse, role=_DECIDED_INSIDE
            ),
        }

    async def _tenant(self, call: Call, tenant_id: str) -> str:
        visible = visible_tenant(call.principal, tenant_id, field="tenant_id")
        if visible != call.principal.tenant_id:
            await self._ledger.check_tenant(visible)
        return visible


def _span(
    request: pb.ExportRequestsRequest | pb.SummarizeUsageRequest, start: datetime, end: datetime
) -> tuple[datetime, datetime]:
    start_time, end_time = _times(request, start, end)
    if end_time - start_time > _SPAN_MAX:
        raise _invalid("end_time", f"may be {_SPAN_MAX.days} days after start_time at most")
    return start_time, end_time


def _times(
    request: pb.ListRequestsRequest | pb.ExportRequestsRequest | pb.SummarizeUsageRequest,
    start: datetime,
    end: datetime,
) -> tuple[datetime, datetime]:
    start_time = _time(request.start_time, "start_time", request.HasField("start_time"), start)
    end_time = _time(request.end_time, "end_time", request.HasField("end_time"), end)
    if end_time < start_time:
        raise _invalid("end_time", "lies before start_time")
    return start_time, end_time


def _time(value: Timestamp, field: str, given: bool, otherwise: datetime) -> datetime:
    return instant_from(value, field=field) if given else otherwise


def _text(value: str, field: str) -> str:
    if len(value) > 256 or "\0" in value:
        raise _invalid(field, "may have 256 characters at most, and no NUL")
    return value


def _invalid(field: str, why: str) -> ValidationError:
    return ValidationError(f"{field} {why}", context={"field": field}, field=field)
