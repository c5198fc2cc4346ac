"""Spools for tests: small files, one kind of call."""

from __future__ import annotations

from pathlib import Path

from headrace.quota.internal.v1.usage_ingest_pb2 import IngestRequest
from headrace.quota.v1.usage_pb2 import REQUEST_STATUS_OK
from headrace_gateway.accounting import records
from headrace_gateway.accounting.records import Estimate, Labels
from headrace_gateway.accounting.replay import replayed
from headrace_gateway.accounting.spool import Spool
from headrace_gateway.accounting.spool_folder import SpoolFolder
from headrace_gateway.accounting.spool_reader import SpoolReader

SEGMENT_BYTES = 128 << 10
LABELS = Labels("acme", "key:k", "m", "1", "unary")
PLACE = records.place_text("runner-0.boot", "cpu")
ESTIMATE = Estimate(100, 25, 50, 1.5)
ADMITTED_US = 1_700_000_000_000_000


def new_spool(parent: Path, *, gateway_id: str = "gateway-0.a", files_max: int = 4) -> Spool:
    """An empty spool of a gateway."""
    folder = SpoolFolder.new(parent, gateway_id=gateway_id)
    return Spool(folder=folder, left=None, bytes_max=files_max * SEGMENT_BYTES, segment_bytes=SEGMENT_BYTES)


def taken_over(folder: SpoolFolder) -> Spool:
    """A spool as the next owner has it, before it has ended what was open."""
    left = replayed(folder.path)
    return Spool(folder=folder, left=left, bytes_max=8 * SEGMENT_BYTES, segment_bytes=SEGMENT_BYTES)


def told(spool: Spool, after: int = 0) -> IngestRequest:
    """Everything that quota would be told after a sequence, as one message."""
    reader = SpoolReader(spool=spool, after=after)
    message = IngestRequest()
    while (read := reader.read(rest=True)) is not None:
        message.MergeFromString(read.content)
    reader.close()
    return message


def texts(request_id: str, labels: Labels = LABELS) -> bytes:
    """What a call's records say of it, but for numbers."""
    return records.labels_text(labels) + records.request_id_text(request_id)


def admit(spool: Spool, request_id: str = "r", *, labels: Labels = LABELS, at_us: int = ADMITTED_US) -> int:
    """Admits a call."""
    spool.check_room()
    return spool.admit(records.admitted(spool.sequence + 1, at_us, ESTIMATE, texts(request_id, labels)))


def end(
    spool: Spool,
    call: int,
    request_id: str = "r",
    *,
    labels: Labels = LABELS,
    reason: str = "",
    status: int = REQUEST_STATUS_OK,
    at_us: int = ADMITTED_US,
) -> None:
    """Ends a call that took 2 ms, 0.5 ms of it on its device."""
    text = texts(request_id, labels) + records.text("error_reason", reason) + PLACE
    numbers = (spool.sequence + 1, call, status, at_us, 2_000, 1_000, 500, 100, 40, 25, 10, 0.5, 1)
    spool.end(call, records.ended(*numbers, text))
