"""Calls of streams that become one row a second."""

from __future__ import annotations

import uuid
from typing import Any

from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord
from headrace.quota.v1 import usage_pb2
from headrace_quota.ledger.rows import row_id
from headrace_quota.ledger.summed_calls import SummedCalls

SPOOL = uuid.UUID("0190b6a2-5c1e-4f7a-9a3b-112233445566")
AT_US = 1_700_000_000_000_000
OK, CANCELLED = usage_pb2.REQUEST_STATUS_OK, usage_pb2.REQUEST_STATUS_CANCELLED


def call(sequence: int, *, after_s: float = 0.0, **fields: Any) -> CallRecord:
    """A call of a packed stream that took 2 ms."""
    values: dict[str, Any] = {
        "status": OK,
        "tenant_id": "acme",
        "subject": "key:k",
        "model": "m",
        "version": "1",
        "kind": "stream",
        "runner_id": "runner-0.boot",
        "device_type": "cpu",
        "total_us": 2_000,
        "queue_us": 1_000,
        "execution_us": 500,
        "input_bytes": 100,
        "output_bytes": 40,
        "device_ms": 0.5,
        "attempts": 1,
        "request_id": "r",
    }
    return CallRecord(sequence=sequence, admit_time_us=AT_US + int(after_s * 1e6), summed=True, **{**values, **fields})


def rows(*calls: CallRecord) -> list[tuple[Any, ...]]:
    sums = SummedCalls()
    for one in calls:
        sums.add(one)
    return sums.rows(SPOOL)


def test_calls_alike_of_a_second_are_one_row_with_sums_and_means() -> None:
    (row,) = rows(call(3), call(5, after_s=0.5, total_us=4_000, device_ms=1.0), call(9, after_s=0.9, total_us=3_000))
    assert row == (
        "acme",
        row_id(SPOOL, 9),
        AT_US,
        AT_US + 903_000,
        "key:k",
        "",
        "stream",
        "m",
        "1",
        "runner-0.boot",
        "cpu",
        "OK",
        "",
        3_000,
        1_000,
        500,
        300,
        120,
        0,
        0,
        2.0,
        3,
        3,
    )


def test_seconds_models_keys_and_ends_are_told_apart() -> None:
    found = rows(
        call(1),
        call(2, after_s=1.0),
        call(3, model="n"),
        call(4, subject="key:l"),
        call(5, status=CANCELLED, error_reason="CALL_CANCELLED"),
        call(6),
    )
    assert [row[-1] for row in found] == [2, 1, 1, 1, 1]
    assert len({row[1] for row in found}) == 5


def test_a_row_of_several_runners_names_none() -> None:
    (row,) = rows(call(1), call(2, runner_id="runner-1.boot"), call(3))
    assert row[9:11] == ("", "")


def test_sums_stay_in_the_bounds_of_a_row() -> None:
    most = 2**64 - 1
    (row,) = rows(*[call(number, input_bytes=most, total_us=most, device_ms=float("inf")) for number in (1, 2)])
    assert (row[3], row[13], row[16], row[20]) == (253_402_300_799_000_000, 2**53, 2**53, 0.0)
