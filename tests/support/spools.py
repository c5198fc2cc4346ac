"""Spools for tests: small files, one kind of call."""

from __future__ import annotations

from pathlib import Path

from headrace.quota.v1.usage_pb2 import REQUEST_STATUS_OK
from headrace_gateway.accounting.records import Estimate, Labels
from headrace_gateway.accounting.replay import replayed
from headrace_gateway.accounting.spool import Spool
from headrace_gateway.accounting.spool_folder import SpoolFolder

SEGMENT_BYTES = 128 << 10
LABELS = Labels("acme", "key:k", "m", "1", "unary")
PLACE = ("runner-0.boot", "cpu")
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


def admit(spool: Spool, request_id: str = "r", *, labels: Labels = LABELS, at_us: int = ADMITTED_US) -> int:
    """Admits a call."""
    spool.check_room()
    return spool.admit(labels, at_us, ESTIMATE, request_id.encode())


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
    spool.end(
        call, labels, PLACE, reason, status, at_us, 2_000, 1_000, 500, 100, 40, 25, 10, 0.5, 1, request_id.encode()
    )
