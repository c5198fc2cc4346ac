"""The ledger of calls, and what happened to runners, with asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime

from headrace_client import rpcs
from headrace_client.contracts.google.protobuf.timestamp_pb2 import Timestamp
from headrace_client.contracts.headrace.quota.v1 import usage_pb2
from headrace_client.errors import ValidationError
from headrace_client.transport import Transport

SumList = list[usage_pb2.UsageSum]
EXPORT_TIMEOUT_S = 3_600.0
_PAGE_SIZE = 1000


class AsyncUsage:
    """What calls used. Reading what is one's own tenant's needs the role `viewer`; all else is for operators.

    All times need a time zone.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def requests(
        self,
        *,
        tenant: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        model: str = "",
        status: str = "",
        request_id: str = "",
        subject: str = "",
    ) -> AsyncGenerator[usage_pb2.RequestRecord, None]:
        """The rows of the ledger, the newest first, fetched as they are asked for.

        Args:
            tenant: Whose; empty means the caller's tenant.
            start: Admitted then or later; None means 24 h ago.
            end: Admitted before; None means now.
            model: Only of this model.
            status: Only `ok`, `failed`, `cancelled` or `abandoned` ones.
            request_id: Only of this request id.
            subject: Only of this key or token, as `key:<id>`.
        """
        request = usage_pb2.ListRequestsRequest(
            tenant_id=tenant,
            model=model,
            status=_status(status),
            request_id=request_id,
            subject=subject,
            page_size=_PAGE_SIZE,
        )
        _set_time(request.start_time, start, "start")
        _set_time(request.end_time, end, "end")
        async for page in self._transport.pages(rpcs.LIST_REQUESTS, request):
            for row in page.requests:
                yield row

    async def export(
        self, start: datetime, end: datetime, *, tenant: str = "", timeout_s: float = EXPORT_TIMEOUT_S
    ) -> AsyncGenerator[usage_pb2.RequestRecord, None]:
        """All rows of a span of time, the oldest first, as one stream. Not retried.

        Args:
            start: Admitted then or later.
            end: Admitted before; at most 366 days later.
            tenant: Whose; empty means the caller's tenant.
            timeout_s: Time for all of it, in seconds.
        """
        request = usage_pb2.ExportRequestsRequest(tenant_id=tenant)
        _set_time(request.start_time, start, "start")
        _set_time(request.end_time, end, "end")
        async for part in self._transport.responses(rpcs.EXPORT_REQUESTS, request, timeout_s=timeout_s):
            for row in part.requests:
                yield row

    async def summary(
        self,
        *,
        tenant: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        model: str = "",
        by: str = "day",
    ) -> SumList:
        """Sums by model, version and span, ordered by time.

        Args:
            tenant: Whose; empty means the caller's tenant.
            start: Hours that begin then or later; None means the first of this month.
            end: Hours that begin before; None means now.
            model: Only of this model.
            by: Span of each sum: `hour`, `day` or `month`, in UTC.
        """
        request = usage_pb2.SummarizeUsageRequest(tenant_id=tenant, model=model, granularity=_granularity(by))
        _set_time(request.start_time, start, "start")
        _set_time(request.end_time, end, "end")
        return list((await self._transport.unary(rpcs.SUMMARIZE_USAGE, request)).sums)

    async def runner_events(
        self, runner: str = "", *, start: datetime | None = None
    ) -> AsyncGenerator[usage_pb2.RunnerEvent, None]:
        """What happened to runners, the newest first, fetched as it is asked for. For operators.

        Args:
            runner: Only to the one of this id, or to all processes that had this name.
            start: Then or later; None means 7 days ago.
        """
        request = usage_pb2.ListRunnerEventsRequest(runner_id=runner, page_size=_PAGE_SIZE)
        _set_time(request.start_time, start, "start")
        async for page in self._transport.pages(rpcs.LIST_RUNNER_EVENTS, request):
            for event in page.events:
                yield event


def _set_time(into: Timestamp, moment: datetime | None, field: str) -> None:
    """Raises ValidationError where the moment has no time zone."""
    if moment is None:
        return
    if moment.tzinfo is None:
        raise ValidationError(f"{field} needs a time zone", field=field)
    into.FromDatetime(moment)


def _status(name: str) -> usage_pb2.RequestStatus.ValueType:
    try:
        return usage_pb2.RequestStatus.Value(f"REQUEST_STATUS_{name.upper()}" if name else "REQUEST_STATUS_UNSPECIFIED")
    except ValueError:
        raise ValidationError(f"there is no status '{name[:80]}'", field="status") from None


def _granularity(name: str) -> usage_pb2.Granularity.ValueType:
    try:
        return usage_pb2.Granularity.Value(f"GRANULARITY_{name.upper()}")
    except ValueError:
        raise ValidationError(f"there is no span '{name[:80]}', only hour, day and month", field="by") from None
