"""The ledger of calls, and what happened to runners, blocking."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime

from headrace_client.async_usage import EXPORT_TIMEOUT_S, AsyncUsage, SumList
from headrace_client.contracts.headrace.quota.v1 import usage_pb2
from headrace_client.loop_thread import LoopThread


class Usage:
    """What calls used; see `AsyncUsage` for what arguments and answers mean."""

    def __init__(self, usage: AsyncUsage, loop: LoopThread) -> None:
        self._usage = usage
        self._loop = loop

    def requests(
        self,
        *,
        tenant: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        model: str = "",
        status: str = "",
        request_id: str = "",
        subject: str = "",
    ) -> Generator[usage_pb2.RequestRecord, None, None]:
        """The rows of the ledger, the newest first, fetched as they are asked for."""
        return self._loop.iterate(
            self._usage.requests(
                tenant=tenant,
                start=start,
                end=end,
                model=model,
                status=status,
                request_id=request_id,
                subject=subject,
            )
        )

    def export(
        self, start: datetime, end: datetime, *, tenant: str = "", timeout_s: float = EXPORT_TIMEOUT_S
    ) -> Generator[usage_pb2.RequestRecord, None, None]:
        """All rows of a span of time, the oldest first, as one stream. Not retried."""
        return self._loop.iterate(self._usage.export(start, end, tenant=tenant, timeout_s=timeout_s))

    def summary(
        self,
        *,
        tenant: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        model: str = "",
        by: str = "day",
    ) -> SumList:
        """Sums by model, version and hour, day or month, ordered by time."""
        return self._loop.run(self._usage.summary(tenant=tenant, start=start, end=end, model=model, by=by))

    def runner_events(
        self, runner: str = "", *, start: datetime | None = None
    ) -> Generator[usage_pb2.RunnerEvent, None, None]:
        """What happened to runners, the newest first, fetched as it is asked for. For operators."""
        return self._loop.iterate(self._usage.runner_events(runner, start=start))
