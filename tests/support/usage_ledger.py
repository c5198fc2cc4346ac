"""Quota's side of usage records, in memory: a cursor for each spool, batches committed whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord, IngestRequest, IngestResponse, SpoolRecord
from headrace.quota.internal.v1.usage_ingest_pb2_grpc import (
    UsageIngestServiceServicer,
    add_UsageIngestServiceServicer_to_server,
)


class UsageLedger(UsageIngestServiceServicer):
    """What gateways have told.

    Attributes:
        rows: Calls of all spools, in the order of their commits.
        records: What else happened, likewise.
        closed: Gateways whose spools have ended.
        loses_answers: How many commits to come end their stream in place of an answer.
        batches: Sizes of the batches.
    """

    def __init__(self) -> None:
        self.rows: list[CallRecord] = []
        self.records: list[SpoolRecord] = []
        self.closed: list[str] = []
        self.loses_answers = 0
        self.batches: list[int] = []
        self._cursors: dict[str, int] = {}

    async def until(self, rows: int) -> list[CallRecord]:
        """The rows, once there are so many."""
        async with asyncio.timeout(30):
            while len(self.rows) < rows:
                await asyncio.sleep(0.01)
        return self.rows

    async def Ingest(  # noqa: N802 - grpc's name
        self, request_iterator: AsyncIterator[IngestRequest], context: grpc.aio.ServicerContext[IngestRequest, object]
    ) -> AsyncGenerator[IngestResponse, None]:
        async for request in request_iterator:
            cursor = self._cursors.get(request.spool_id, 0)
            calls = [call.sequence for call in request.calls]
            others = [record.sequence for record in request.records]
            sequences = calls + others
            assert calls == sorted(calls), "in order"
            assert others == sorted(others), "in order"
            assert len(sequences) == len(set(sequences)), "each once"
            self.batches.append(len(sequences))
            self.rows += [call for call in request.calls if call.sequence > cursor]
            self.records += [record for record in request.records if record.sequence > cursor]
            self._cursors[request.spool_id] = max([cursor, *sequences])
            if request.closes:
                self.closed.append(request.gateway_id)
            if sequences and self.loses_answers:
                self.loses_answers -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone after the commit")
            yield IngestResponse(spool_id=request.spool_id, through_sequence=self._cursors[request.spool_id])


@asynccontextmanager
async def served(ledger: UsageLedger, address: str = "127.0.0.1:0") -> AsyncGenerator[str, None]:
    """Serves it; yields the address."""
    server = grpc.aio.server()
    add_UsageIngestServiceServicer_to_server(ledger, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
