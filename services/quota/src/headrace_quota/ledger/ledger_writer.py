"""Writes batches of spools: rows, sums, what they use of quotas and the spool's cursor, all in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from headrace.quota.internal.v1 import usage_ingest_pb2 as pb
from headrace_common.postgres import Connection, Database
from headrace_quota.ledger.rows import Row
from headrace_quota.ledger.spool_batch import SpoolBatch, spool_of
from headrace_quota.statements import statement


class LedgerWriter:
    """Each record once, however often it is sent: what the spool's cursor has passed is left out."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def write(self, request: pb.IngestRequest) -> int:
        """Writes what is new of a batch.

        Returns:
            How far the spool is now: the number of the last record that is committed.

        Raises:
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT): the batch can't be of a spool of ours.
            StorageUnavailable: DATABASE_UNAVAILABLE and others (UNAVAILABLE): nothing of it was written.
        """
        batch = spool_of(request)
        async with self._database.service() as connection:
            spool = {"spool_id": batch.spool_id, "gateway_id": batch.gateway_id}
            found = await (await connection.execute(statement("lock_spool"), spool)).fetchone()
            assert found is not None, "an upsert returns its row"
            batch.through = found["sequence"]
            for record in request.records:
                if record.sequence > found["sequence"]:
                    batch.add(record)
            for call in request.calls:
                if call.sequence > found["sequence"]:
                    batch.add_call(call)
            rows = batch.all_rows()
            if rows:
                await _write_rows(connection, rows, gateway_id=batch.gateway_id)
            await _write_audit(connection, batch)
            for event in batch.runners:
                await connection.execute(statement("insert_runner_event"), asdict(event))
            for use in sorted(batch.key_uses, key=lambda use: (use.tenant_id, use.key_id)):
                await connection.execute(statement("record_key_use"), asdict(use))
            if batch.closes:
                await connection.execute(statement("close_leases"), spool)
            if batch.closes or batch.through > found["sequence"]:
                end = {"spool_id": batch.spool_id, "sequence": batch.through, "closes": batch.closes}
                await connection.execute(statement("advance_spool"), end)
        return batch.through


async def _write_rows(connection: Connection, rows: Sequence[Row], *, gateway_id: str) -> None:
    await connection.execute(statement("stage_ledger"))
    async with connection.cursor() as cursor, cursor.copy(statement("copy_ledger")) as copy:
        for row in rows:
            await copy.write_row(row)
    await connection.execute(statement("charge_ledger"), {"gateway_id": gateway_id})
    await connection.execute(statement("sum_ledger"))
    await connection.execute(statement("write_ledger"))


async def _write_audit(connection: Connection, batch: SpoolBatch) -> None:
    """Appends to the chains of the tenants concerned, which are locked in the order of their names."""
    for tenant_id in sorted({entry.tenant_id for entry in batch.audit}):
        chain = await (await connection.execute(statement("lock_audit_chain"), {"tenant_id": tenant_id})).fetchone()
        assert chain is not None, "an upsert returns its row"
        sequence, sha256 = chain["sequence"], bytes(chain["sha256"])
        for entry in batch.audit:
            if entry.tenant_id != tenant_id:
                continue
            previous, sequence = sha256, sequence + 1
            sha256 = entry.sha256(sequence, previous)
            values = {
                "tenant_id": tenant_id,
                "sequence": sequence,
                "event_at": entry.event_time,
                "actor": entry.actor,
                "method": entry.method,
                "resource": entry.resource,
                "request_json": entry.request_json,
                "outcome": entry.outcome,
                "request_id": entry.request_id,
                "gateway_id": entry.gateway_id,
                "previous_sha256": previous,
                "sha256": sha256,
            }
            await connection.execute(statement("insert_audit_entry"), values)
        end = {"tenant_id": tenant_id, "sequence": sequence, "sha256": sha256}
        await connection.execute(statement("advance_audit_chain"), end)
