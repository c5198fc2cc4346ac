"""The spool's records, its files, and what is found in them after a death."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.quota.v1.usage_pb2 import REQUEST_STATUS_ABANDONED
from headrace_common.errors import HeadraceError
from headrace_gateway.accounting import records, spool_folder
from headrace_gateway.accounting.batch import Batch
from headrace_gateway.accounting.records import Estimate, Kind, Labels
from headrace_gateway.accounting.replay import Replayed, replayed
from headrace_gateway.accounting.segments import Segment
from headrace_gateway.accounting.spool import EVENT_BYTES_MAX, Spool
from headrace_gateway.accounting.spool_folder import SpoolFolder
from headrace_gateway.accounting.spool_reader import SpoolReader
from support.spools import ADMITTED_US, ESTIMATE, LABELS, SEGMENT_BYTES, admit, end, new_spool, taken_over

TEXT = st.text(max_size=40)
STEPS = st.lists(st.tuples(st.sampled_from(["admit", "end", "tell"]), TEXT, st.integers(0, 5)), max_size=30)


@dataclass(frozen=True)
class State:
    """What a reader of the spool must find when everything up to `at` was written."""

    at: int
    open: frozenset[int]
    events: int
    sequence: int


def told(spool: Spool, after: int = 0) -> Batch:
    """Everything that quota would be told after a sequence."""
    reader = SpoolReader(spool=spool, after=after)
    batch = Batch(spool_id=spool.folder.id, gateway_id=spool.folder.gateway_id)
    while reader.read(batch, events=7):
        pass
    reader.close()
    batch.finished()
    return batch


def request_ids(batch: Batch) -> list[str]:
    return [record.request.request_id for record in batch.request.records]


@given(steps=STEPS, cut=st.floats(0, 1))
def test_any_beginning_of_what_was_written_replays_to_the_state_of_that_moment(
    steps: list[tuple[str, str, int]], cut: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = new_spool(Path(folder))
        states = [State(0, frozenset(), 0, 0)]
        open_calls: list[int] = []
        for step, text, which in steps:
            labels = LABELS._replace(subject=f"key:{text}")
            if step == "admit":
                open_calls.append(admit(spool, text, labels=labels))
            elif step == "end" and open_calls:
                end(spool, open_calls.pop(which % len(open_calls)), text, labels=labels, reason=text)
            elif step == "tell":
                spool.tell(Kind.RUNNER, text.encode())
            states.append(State(spool.at, frozenset(open_calls), spool.events, spool.sequence))
        content = spool.segments[0].path.read_bytes()
        length = int(cut * spool.at)
        spool.close(empty=True)
    # What a death in the middle of a copy leaves: the beginning, and room that was never written.
    torn = content[:length] + bytes(256)
    left = Replayed()
    with memoryview(torn) as written:
        left.take(written, Segment(path=Path("x"), first=1))
    # A record whose last bytes are zeros is whole without them: room that was never written reads as zeros.
    expected = next(state for state in reversed(states) if torn[: state.at] == content[: state.at])
    assert (frozenset(left.open), left.events, left.sequence) == (expected.open, expected.events, expected.sequence)


@given(steps=STEPS, at=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_damaged_byte_ends_the_replay_and_never_makes_a_record(
    steps: list[tuple[str, str, int]], at: float, bit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = new_spool(Path(folder))
        calls = [admit(spool, text) for _, text, _ in steps]
        content = bytearray(spool.segments[0].path.read_bytes()[: spool.at])
        spool.close(empty=True)
    if content:
        content[min(int(at * len(content)), len(content) - 1)] ^= 1 << bit
    left = Replayed()
    with memoryview(bytes(content)) as written:
        left.take(written, Segment(path=Path("x"), first=1))
    found = list(left.open)
    assert found == calls[: len(found)]
    assert not content or len(found) < len(calls)


@given(
    request_id=st.text(max_size=60),
    amounts=st.lists(st.integers(0, 2**63 - 1), min_size=8, max_size=8),
    device_ms=st.floats(0, 1e9),
)
def test_records_are_read_as_they_were_written(request_id: str, amounts: list[int], device_ms: float) -> None:
    ended = records.Ended._make((7, 5, 1, 2, 3, 4, *amounts, device_ms, 9, request_id))
    of_call: Any = [*ended[:-1], request_id.encode()]
    body = records.ended(*of_call)
    assert records.read_ended(body, 0, len(body)) == ended
    estimate = Estimate(amounts[0], amounts[1], amounts[2], device_ms)
    call = records.read_admitted(records.admitted(7, 1, amounts[3], estimate, request_id.encode()))
    assert call == (7, 1, amounts[3], estimate, request_id)
    assert records.read_texts(records.texts(1, (request_id, "", "x"))) == (request_id, "", "x")


def test_texts_that_are_too_long_are_cut_at_a_character() -> None:
    (read,) = records.read_texts(records.texts(1, ("ä" * 2_000,)))
    assert read == "ä" * 512


def test_a_row_tells_what_its_call_used(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    call = admit(spool, "request-1")
    end(spool, call, "request-1", reason="MODEL_FAILED", status=2)
    batch = told(spool)
    (record,) = batch.request.records
    row = record.request
    assert record.sequence == batch.through == spool.sequence
    assert (row.tenant_id, row.subject, row.model, row.version, row.kind) == LABELS[:5]
    assert (row.request_id, row.runner_id, row.device_type) == ("request-1", "runner-0.boot", "cpu")
    assert (row.status, row.error_reason, row.attempts, row.calls) == (2, "MODEL_FAILED", 1, 1)
    assert row.admit_time.ToMicroseconds() == ADMITTED_US
    assert row.end_time.ToMicroseconds() == ADMITTED_US + 2_000
    latencies = (row.total_latency, row.queue_latency, row.execution_latency)
    assert [latency.ToMicroseconds() for latency in latencies] == [2_000, 1_000, 500]
    assert (row.input_bytes, row.output_bytes, row.prompt_tokens, row.completion_tokens) == (100, 40, 25, 10)
    assert row.device_ms == 0.5


def test_identifiers_of_rows_are_the_same_each_time_and_no_other_rows(tmp_path: Path) -> None:
    spool, other = new_spool(tmp_path), new_spool(tmp_path)
    for one in (spool, other):
        for _ in range(3):
            end(one, admit(one))
    ids = [[record.request.id for record in told(one).request.records] for one in (spool, spool, other)]
    assert ids[0] == ids[1]
    assert len(set(ids[0] + ids[2])) == 6
    assert all(len(text) == 36 for text in ids[0])


def test_calls_without_an_end_are_charged_at_their_estimate_after_a_death(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    admit(spool, "lost")
    done = admit(spool, "done", at_us=ADMITTED_US + 5_000)
    end(spool, done, "done", at_us=ADMITTED_US + 5_000)
    spool.close(empty=False)
    (folder,) = spool_folder.abandoned(tmp_path)
    left = replayed(folder.path)
    heir = Spool(folder=folder, left=left, bytes_max=8 * SEGMENT_BYTES, segment_bytes=SEGMENT_BYTES)
    heir.abandon(left, status=REQUEST_STATUS_ABANDONED, reason="CALL_ABANDONED")
    rows = [record.request for record in told(heir).request.records]
    assert [row.request_id for row in rows] == ["done", "lost"]
    row = rows[1]
    assert (row.status, row.error_reason) == (REQUEST_STATUS_ABANDONED, "CALL_ABANDONED")
    assert (row.input_bytes, row.prompt_tokens, row.completion_tokens, row.device_ms) == ESTIMATE
    # The latest that is known to have happened.
    assert row.end_time.ToMicroseconds() == ADMITTED_US + 7_000
    assert not heir.open_calls


def test_an_heir_that_dies_too_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    calls = [admit(spool, f"r{index}") for index in range(3)]
    spool.close(empty=False)
    (folder,) = spool_folder.abandoned(tmp_path)
    heir = taken_over(folder)
    end(heir, calls[0], "r0", status=REQUEST_STATUS_ABANDONED)
    first = told(heir)
    heir.close(empty=False)
    (folder,) = spool_folder.abandoned(tmp_path)
    left = replayed(folder.path)
    assert sorted(left.open) == calls[1:]
    second = Spool(folder=folder, left=left, bytes_max=8 * SEGMENT_BYTES, segment_bytes=SEGMENT_BYTES)
    second.abandon(left, status=REQUEST_STATUS_ABANDONED, reason="CALL_ABANDONED")
    # What the first heir may have sent already has the same sequences.
    assert told(second).request.records[0] == first.request.records[0]
    assert request_ids(told(second, after=first.through)) == ["r1", "r2"]


def test_acknowledged_files_go_and_their_open_calls_are_kept(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    patient = admit(spool, "patient")
    while len(spool.segments) < 3:
        end(spool, admit(spool, "quick"), "quick")
    spool.acknowledge(spool.segments[1].last_event)
    assert len(list(spool.folder.path.glob("*.segment"))) == len(spool.segments) == 1
    spool.close(empty=False)
    (folder,) = spool_folder.abandoned(tmp_path)
    left = replayed(folder.path)
    (labels, call) = left.open[patient]
    assert (labels, call.request_id, call.estimate, call.admitted_us) == (LABELS, "patient", ESTIMATE, ADMITTED_US)


def test_files_stay_until_all_of_them_is_acknowledged(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    while len(spool.segments) < 2:
        end(spool, admit(spool), "r")
    spool.acknowledge(spool.segments[0].last_event - 1)
    assert len(spool.segments) == 2
    spool.acknowledge(spool.segments[0].last_event)
    assert len(spool.segments) == 1


def test_a_full_spool_refuses_calls_and_still_takes_the_ends_of_those_it_has(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, files_max=2)
    calls: list[int] = []
    with pytest.raises(HeadraceError) as refusal:
        while True:
            calls.append(admit(spool))
    assert refusal.value.reason == "SPOOL_FULL"
    assert refusal.value.retry_after_s
    for call in calls:
        end(spool, call)
    assert spool.refused == 1
    assert not spool.open_calls
    assert told(spool).events == len(calls)
    spool.acknowledge(spool.sequence)
    assert admit(spool)


def test_events_that_there_is_no_room_for_are_refused(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, files_max=2)
    with pytest.raises(HeadraceError):
        while True:
            spool.tell(Kind.AUDIT, bytes(1_000))
    with pytest.raises(ValueError, match="at most"):
        new_spool(tmp_path).tell(Kind.AUDIT, bytes(EVENT_BYTES_MAX + 1))


def test_ends_wait_in_memory_while_the_disk_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = new_spool(tmp_path)
    calls: list[int] = []
    while spool.at <= SEGMENT_BYTES - (64 << 10):
        calls.append(admit(spool))
    with monkeypatch.context() as patch:
        patch.setattr("headrace_gateway.accounting.segments.os.posix_fallocate", no_room)
        with pytest.raises(HeadraceError):
            spool.check_room()
        end(spool, calls[0], "late")
        spool.prepare()
        assert not told(spool).events
        assert spool.open_calls == len(calls)
    spool.prepare()
    assert request_ids(told(spool)) == ["late"]
    assert spool.open_calls == len(calls) - 1


def no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_calls_of_aggregated_streams_are_one_row_for_each_second_and_status(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    labels = LABELS._replace(kind="stream", aggregated="1")
    for at_s in (0.0, 0.5, 0.9, 1.0):
        at_us = ADMITTED_US + int(at_s * 1e6)
        end(spool, admit(spool, "", labels=labels, at_us=at_us), "", labels=labels, at_us=at_us)
    end(spool, admit(spool, "", labels=labels), "", labels=labels, reason="CALL_CANCELLED", status=3)
    end(spool, admit(spool, "alone"), "alone")
    batch = told(spool)
    rows = [record.request for record in batch.request.records]
    assert [record.sequence for record in batch.request.records] == sorted(
        record.sequence for record in batch.request.records
    )
    assert batch.request.records[-1].sequence == batch.through == spool.sequence
    assert [(row.calls, row.status, row.kind) for row in rows] == [
        (3, 1, "stream"),
        (1, 1, "stream"),
        (1, 3, "stream"),
        (1, 1, "unary"),
    ]
    first = rows[0]
    assert (first.input_bytes, first.output_bytes, first.device_ms, first.attempts) == (300, 120, 1.5, 3)
    assert first.total_latency.ToMicroseconds() == 2_000
    assert first.admit_time.ToMicroseconds() == ADMITTED_US
    assert first.end_time.ToMicroseconds() == ADMITTED_US + 902_000


def test_a_batch_has_no_more_records_than_quota_takes(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, files_max=100)
    for index in range(2_500):
        end(spool, admit(spool, str(index)), str(index))
    reader = SpoolReader(spool=spool, after=0)
    found: list[str] = []
    sizes: list[int] = []
    while len(found) < 2_500:
        batch = Batch(spool_id=spool.folder.id, gateway_id="g")
        while not batch.full and reader.read(batch, events=64):
            pass
        sizes.append(len(batch.finished().records))
        found += request_ids(batch)
    assert found == [str(index) for index in range(2_500)]
    assert max(sizes) <= 1_000


def test_a_spool_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    assert spool_folder.abandoned(tmp_path) == []
    assert SpoolFolder.take(spool.folder.path) is None
    spool.close(empty=False)
    (folder,) = spool_folder.abandoned(tmp_path)
    assert (folder.id, folder.gateway_id) == (spool.folder.id, "gateway-0.a")
    assert spool_folder.abandoned(tmp_path) == []
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_many_labels_are_numbered_anew_in_each_file(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, files_max=100)
    expected: list[Labels] = []
    for index in range(3_000):
        labels = LABELS._replace(subject=f"key:{index % 700}")
        expected.append(labels)
        end(spool, admit(spool, labels=labels), labels=labels)
    assert len(spool.segments) > 3
    rows = [record.request for record in told(spool).request.records]
    assert [row.subject for row in rows] == [labels.subject for labels in expected]
