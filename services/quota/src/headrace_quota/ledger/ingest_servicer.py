"""`headrace.quota.internal.v1.UsageIngestService`: a stream a spool, each batch answered when it is committed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from headrace.quota.internal.v1 import usage_ingest_pb2 as pb
from headrace_common.grpc_server import Call, RpcMethod
from headrace_common.principal import SERVICE_ROLE
from headrace_common.rpc_method import bidi_stream
from headrace_quota.ledger.ledger_writer import LedgerWriter

INGEST_SERVICE = "headrace.quota.internal.v1.UsageIngestService"


class IngestServicer:
    """Translates between streams and the writer."""

    def __init__(self, *, writer: LedgerWriter, registry: CollectorRegistry) -> None:
        self._writer = writer
        self._records = Counter(
            "headrace_quota_ledger_records", "Records of spools that were committed or seen again.", registry=registry
        )

    async def ingest(self, requests: AsyncIterator[pb.IngestRequest], call: Call) -> AsyncIterator[pb.IngestResponse]:
        """Writes batch after batch. What is raised ends the stream; the gateway sends the batch again on another."""
        async for request in requests:
            through = await self._writer.write(request)
            self._records.inc(len(request.records) + len(request.calls))
            yield pb.IngestResponse(spool_id=request.spool_id, through_sequence=through)

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """The method by name, for the service's handler."""
        return {
            "Ingest": bidi_stream(self.ingest, pb.IngestRequest, pb.IngestResponse, role=SERVICE_ROLE, endless=True)
        }
