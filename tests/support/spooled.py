"""What a gateway's spool sends to the quota service, made by hand."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.quota.internal.v1 import usage_ingest_pb2 as pb
from headrace.quota.v1 import usage_pb2
from headrace_common.principal import PRINCIPAL_KEY
from headrace_quota.app import AUDIENCE
from headrace_quota.ledger.ingest_servicer import INGEST_SERVICE
from headrace_quota.ledger.rows import row_id
from headrace_quota.messages import timestamp
from support.quota import QuotaClient

NOW = datetime.now(UTC).replace(microsecond=0)


def request_record(tenant_id: str, *, admitted_at: datetime = NOW, **fields: Any) -> usage_pb2.RequestRecord:
    """A call of a model that was answered."""
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "subject": "key:k1",
        "request_id": "r1",
        "model": "magika",
        "version": "1",
        "runner_id": "runner-0",
        "device_type": "cpu",
        "status": usage_pb2.REQUEST_STATUS_OK,
        "admit_time": timestamp(admitted_at),
        "end_time": timestamp(admitted_at + timedelta(milliseconds=4)),
        "input_bytes": 100,
        "output_bytes": 10,
        "device_ms": 2.5,
        "attempts": 1,
        "calls": 1,
        "kind": "unary",
    }
    record = usage_pb2.RequestRecord(**{**values, **fields})
    record.total_latency.FromMilliseconds(4)
    return record


def call_record(record: usage_pb2.RequestRecord, *, sequence: int, summed: bool = False) -> pb.CallRecord:
    """The row as a gateway's spool has it."""
    same = ("input_bytes", "output_bytes", "prompt_tokens", "completion_tokens", "device_ms", "attempts", "status")
    texts = ("request_id", "error_reason", "tenant_id", "subject", "model", "version", "kind")
    return pb.CallRecord(
        sequence=sequence,
        admission=sequence,
        admit_time_us=record.admit_time.ToMicroseconds(),
        total_us=record.total_latency.ToMicroseconds(),
        queue_us=record.queue_latency.ToMicroseconds(),
        execution_us=record.execution_latency.ToMicroseconds(),
        runner_id=record.runner_id,
        device_type=record.device_type,
        summed=summed,
        **{name: getattr(record, name) for name in (*same, *texts)},
    )


class Summed:
    """A call that becomes a row together with those alike."""

    def __init__(self, record: usage_pb2.RequestRecord) -> None:
        self.record = record


class SpoolWriter:
    """Sends batches of one spool, numbered as a gateway does."""

    def __init__(self, stream: Any, *, spool_id: str, gateway_id: str) -> None:
        self._stream = stream
        self.spool_id = spool_id
        self.gateway_id = gateway_id
        self.sequence = 0

    async def send(self, *records: Any, closes: bool = False, again_from: int | None = None) -> int:
        """Sends records as the next ones of the spool, or again as those after a number; returns how far it is."""
        sequence = self.sequence if again_from is None else again_from
        request = pb.IngestRequest(spool_id=self.spool_id, gateway_id=self.gateway_id, closes=closes)
        for record in records:
            sequence += 1
            if isinstance(record, Summed):
                request.calls.append(call_record(record.record, sequence=sequence, summed=True))
            elif isinstance(record, usage_pb2.RequestRecord):
                record.id = row_id(uuid.UUID(self.spool_id), sequence)
                request.calls.append(call_record(record, sequence=sequence))
            elif isinstance(record, pb.SpoolRecord):
                record.sequence = sequence
                request.records.append(record)
            else:
                kind = {"RunnerEvent": "runner", "AuditEntry": "audit", "KeyUse": "key_use"}[type(record).__name__]
                request.records.append(pb.SpoolRecord(sequence=sequence, **{kind: record}))
        self.sequence = max(self.sequence, sequence)
        await self._stream.write(request)
        response = await self._stream.read()
        assert isinstance(response, pb.IngestResponse), await self._stream.details()
        assert response.spool_id == self.spool_id
        return response.through_sequence


@asynccontextmanager
async def spool_writer(
    client: QuotaClient, *, spool_id: str = "", gateway_id: str = "gateway-test"
) -> AsyncGenerator[SpoolWriter]:
    """A stream to the quota service's ledger, as a gateway opens it."""
    method: Any = client.channel.stream_stream(  # pyright: ignore[reportUnknownMemberType]
        f"/{INGEST_SERVICE}/Ingest",
        request_serializer=pb.IngestRequest.SerializeToString,
        response_deserializer=pb.IngestResponse.FromString,
    )
    stream = method(metadata=((PRINCIPAL_KEY, client.signer.sign_service(audience=AUDIENCE)),))
    try:
        yield SpoolWriter(stream, spool_id=spool_id or str(uuid.uuid4()), gateway_id=gateway_id)
    finally:
        stream.cancel()
