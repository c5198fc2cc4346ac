"""The spool's records, its files, and what is found in them after a death."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord, IngestRequest, SpoolRecord
from headrace.quota.v1.audit_pb2 import AuditEntry
from headrace.quota.v1.usage_pb2 import REQUEST_STATUS_ABANDONED, RunnerEvent
from headrace_common.errors import HeadraceError
from headrace_gateway.accounting import records, spool_folder
from headrace_gateway.accounting.admissions import PLACE_BYTES
from headrace_gateway.accounting.admissions import read as read_admissions
from headrace_gateway.accounting.records import Estimate, Labels
from headrace_gateway.accounting.replay import ADMISSIONS, Replayed, UnknownSpoolError, replayed
from headrace_gateway.accounting.segments import PORTION_BYTES, Segment
from headrace_gateway.accounting.spool import EVENT_BYTES_MAX, Spool
from headrace_gateway.accounting.spool_folder import SpoolFolder
from headrace_gateway.accounting.spool_reader import SpoolReader
from support.spools import ADMITTED_US, ESTIMATE, LABELS, SEGMENT_BYTES, admit, end, new_spool, taken_over, told

AMOUNTS = (
    "admit_time_us",
    "total_us",
    "queue_us",
    "execution_us",
    "input_bytes",
    "output_bytes",
    "prompt_tokens",
    "completion_tokens",
)
TEXTS = ("tenant_id", "subject", "model", "version", "kind", "request_id", "runner_id", "device_type")
TEXT = st.text(max_size=40)
STEPS = st.lists(st.tuples(st.sampled_from(["admit", "end", "tell"]), TEXT, st.integers(0, 5)), max_size=30)


@dataclass(frozen=True)
class State:
    """The files at some moment, and what a reader of them must find."""

    records: bytes
    admissions: bytes
    open: frozenset[int]
    events: int
    sequence: int


def state_of(spool: Spool, open_calls: list[int]) -> State:
    content = spool.segments[0].path.read_bytes()[: spool.at]
    # There are never more open than have these places.
    with (spool.folder.path / ADMISSIONS).open("rb") as file:
        admissions = file.read(32 * PLACE_BYTES)
    return State(content, admissions, frozenset(open_calls), spool.events, spool.sequence)


def found_in(content: bytes, admissions: bytes, folder: Path) -> Replayed:
    """What a reader finds in files with this content."""
    path = folder / "found"
    path.write_bytes(admissions)
    left = Replayed()
    left.admitted({number: body for number, (_, body) in read_admissions(path).items()})
    with memoryview(content) as written:
        left.take(written, Segment(path=path))
    return left


def request_ids(message: IngestRequest) -> list[str]:
    return [call.request_id for call in message.calls]


@given(steps=STEPS, cut=st.floats(0, 1), at=st.floats(0, 1))
def test_whenever_its_writer_dies_the_files_tell_the_state_of_that_moment(
    steps: list[tuple[str, str, int]], cut: float, at: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = new_spool(Path(folder))
        states = [state_of(spool, [])]
        open_calls: list[int] = []
        for step, text, which in steps:
            labels = LABELS._replace(subject=f"key:{text}")
            if step == "admit":
                open_calls.append(admit(spool, text, labels=labels))
            elif step == "end" and open_calls:
                end(spool, open_calls.pop(which % len(open_calls)), text, labels=labels, reason=text)
            elif step == "tell":
                spool.tell(SpoolRecord(runner=RunnerEvent(detail=text)))
            states.append(state_of(spool, open_calls))
        spool.close(empty=True)
        index = int(at * (len(states) - 1))
        before, after = states[max(0, index - 1)], states[index]
        # It dies while it writes a record: the beginning is there, and room that was never written.
        length = len(before.records) + int(cut * (len(after.records) - len(before.records)))
        torn = after.records[:length] + bytes(256)
        whole = torn.startswith(after.records)
        left = found_in(torn, before.admissions, Path(folder))
        # Or before it has freed the place of the call that it has written the end of.
        expected = after if whole and after.events > before.events else before
        assert (frozenset(left.open), left.events) == (expected.open, expected.events)
        left = found_in(after.records, after.admissions, Path(folder))
        assert (frozenset(left.open), left.events) == (after.open, after.events)
        assert left.sequence == after.sequence or not after.events


@given(steps=STEPS, at=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_damaged_byte_ends_the_replay_and_never_makes_a_record(
    steps: list[tuple[str, str, int]], at: float, bit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = new_spool(Path(folder))
        for _, text, _ in steps:
            end(spool, admit(spool, text), text)
        content = bytearray(spool.segments[0].path.read_bytes()[: spool.at])
        spool.close(empty=True)
        if content:
            content[min(int(at * len(content)), len(content) - 1)] ^= 1 << bit
        left = found_in(bytes(content), b"", Path(folder))
    assert not content or left.events < len(steps)
    assert left.sequence == 2 * left.events


@given(at=st.integers(0, 2_047), bit=st.integers(0, 7))
def test_a_damaged_admission_is_none(at: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = new_spool(Path(folder))
        admit(spool, "r")
        content = bytearray((spool.folder.path / ADMISSIONS).read_bytes())
        used = len(content[:PLACE_BYTES].rstrip(bytes(1)))
        spool.close(empty=True)
        content[min(at, used - 1)] ^= 1 << bit
        assert not found_in(b"", bytes(content), Path(folder)).open


@given(
    texts=st.lists(st.text(max_size=60), min_size=8, max_size=8),
    amounts=st.lists(st.integers(0, 2**63 - 1), min_size=8, max_size=8),
    device_ms=st.floats(0, 1e9),
    summed=st.booleans(),
)
def test_records_are_messages_as_they_are(texts: list[str], amounts: list[int], device_ms: float, summed: bool) -> None:
    labels = Labels(*texts[:5], summed=summed)
    text = records.labels_text(labels) + records.request_id_text(texts[5]) + records.place_text(texts[6], texts[7])
    values: Any = (7, 5, 3, *amounts, device_ms, 9, text)
    written = records.ended(*values)
    made = CallRecord(sequence=7, admission=5, status=3, device_ms=device_ms, attempts=9, summed=summed)  # pyright: ignore
    for name, amount in zip(AMOUNTS, amounts, strict=True):
        setattr(made, name, amount)
    for name, value in zip(TEXTS, texts, strict=True):
        setattr(made, name, value)
    assert list(IngestRequest.FromString(written).calls) == [made]
    begun = records.admitted(5, amounts[0], Estimate(amounts[4], amounts[6], amounts[7], device_ms), text)
    for name in ("sequence", "status", "total_us", "queue_us", "execution_us", "output_bytes", "attempts"):
        made.ClearField(name)
    assert CallRecord.FromString(begun) == made


def test_texts_that_are_too_long_are_cut_at_a_character() -> None:
    assert CallRecord.FromString(records.request_id_text("ä" * 2_000)).request_id == "ä" * 127
    assert CallRecord.FromString(records.text("subject", "x" + "ä" * 2_000)).subject == "x" + "ä" * 549


def test_the_longest_texts_have_their_place(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    long = "x" * 3_000
    labels = Labels(long, long, long, long, long, summed=True)
    before, longest, after = (admit(spool, one, labels=labels) for one in ("before", long, "after"))
    assert replayed(spool.folder.path).open.keys() == {before, longest, after}
    end(spool, longest, long, labels=labels, reason=long)
    (call,) = told(spool).calls
    assert (len(call.subject), len(call.tenant_id), len(call.error_reason)) == (1_100, 255, 255)


def test_a_row_tells_what_its_call_used(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    call = admit(spool, "request-1")
    end(spool, call, "request-1", reason="MODEL_FAILED", status=2)
    (row,) = told(spool).calls
    assert (row.sequence, row.admission) == (spool.sequence, call)
    assert (row.tenant_id, row.subject, row.model, row.version, row.kind, row.summed) == LABELS
    assert (row.request_id, row.runner_id, row.device_type) == ("request-1", "runner-0.boot", "cpu")
    assert (row.status, row.error_reason, row.attempts) == (2, "MODEL_FAILED", 1)
    assert (row.admit_time_us, row.total_us, row.queue_us, row.execution_us) == (ADMITTED_US, 2_000, 1_000, 500)
    assert (row.input_bytes, row.output_bytes, row.prompt_tokens, row.completion_tokens) == (100, 40, 25, 10)
    assert row.device_ms == 0.5


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
    rows = told(heir).calls
    assert [row.request_id for row in rows] == ["done", "lost"]
    row = rows[1]
    assert (row.status, row.error_reason) == (REQUEST_STATUS_ABANDONED, "CALL_ABANDONED")
    assert (row.input_bytes, row.prompt_tokens, row.completion_tokens, row.device_ms) == ESTIMATE
    # The latest that is known to have happened.
    assert row.admit_time_us + row.total_us == ADMITTED_US + 7_000
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
    assert told(second).calls[0] == first.calls[0]
    assert request_ids(told(second, after=first.calls[-1].sequence)) == ["r1", "r2"]


def test_acknowledged_files_go_and_open_calls_are_kept(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    patient = admit(spool, "patient")
    while len(spool.segments) < 3:
        end(spool, admit(spool, "quick"), "quick")
    spool.acknowledge(spool.segments[1].last_event)
    assert len(list(spool.folder.path.glob("*.segment"))) == len(spool.segments) == 1
    spool.close(empty=False)
    (folder,) = spool_folder.abandoned(tmp_path)
    left = replayed(folder.path)
    call = left.open[patient]
    assert (call.tenant_id, call.request_id, call.admit_time_us) == ("acme", "patient", ADMITTED_US)
    assert (call.input_bytes, call.prompt_tokens, call.completion_tokens, call.device_ms) == ESTIMATE


def test_a_spool_never_goes_back_behind_what_quota_has(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    patient = admit(spool, "patient")
    while spool.at <= SEGMENT_BYTES - (64 << 10):
        end(spool, admit(spool, "quick"), "quick")
    spool.check_room()
    assert spool.at == 0
    spool.acknowledge(spool.sequence)
    spool.close(empty=False)
    (folder,) = spool_folder.abandoned(tmp_path)
    left = replayed(folder.path)
    assert list(left.open) == [patient]
    assert left.sequence == spool.sequence


def test_there_are_places_for_as_many_open_calls_as_it_takes(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    calls = [admit(spool, str(number)) for number in range(1_300)]
    for call in calls[::2]:
        end(spool, call)
    calls = calls[1::2] + [admit(spool, "later") for _ in range(700)]
    spool.close(empty=False)
    (folder,) = spool_folder.abandoned(tmp_path)
    assert sorted(replayed(folder.path).open) == sorted(calls)


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
    calls = [admit(spool) for _ in range(1_000)]
    with pytest.raises(HeadraceError) as refusal:
        while True:
            end(spool, admit(spool))
    assert refusal.value.reason == "SPOOL_FULL"
    assert refusal.value.retry_after_s
    before = spool.events
    for call in calls:
        end(spool, call)
    assert spool.refused == 1
    assert not spool.open_calls
    assert len(told(spool).calls) == before + len(calls)
    spool.acknowledge(spool.sequence)
    assert admit(spool)


def test_events_that_there_is_no_room_for_are_refused(tmp_path: Path) -> None:
    spool = new_spool(tmp_path, files_max=2)
    with pytest.raises(HeadraceError):
        while True:
            spool.tell(SpoolRecord(audit=AuditEntry(request_json="x" * 1_000)))
    with pytest.raises(ValueError, match="at most"):
        new_spool(tmp_path).tell(SpoolRecord(audit=AuditEntry(request_json="x" * EVENT_BYTES_MAX)))


def test_ends_wait_in_memory_while_the_disk_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = new_spool(tmp_path)
    calls = [admit(spool) for _ in range(3)]
    while spool.at <= SEGMENT_BYTES - (64 << 10):
        end(spool, admit(spool))
    written = len(told(spool).calls)
    with monkeypatch.context() as patch:
        patch.setattr("headrace_gateway.accounting.segments.os.posix_fallocate", no_room)
        with pytest.raises(HeadraceError):
            spool.check_room()
        end(spool, calls[0], "late")
        spool.prepare()
        assert len(told(spool).calls) == written
        assert spool.open_calls == len(calls)
    spool.prepare()
    assert request_ids(told(spool))[written:] == ["late"]
    assert spool.open_calls == len(calls) - 1


def no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_is_sent_at_once_is_bounded_and_nothing_is_left_out(tmp_path: Path) -> None:
    folder = SpoolFolder.new(tmp_path, gateway_id="g")
    spool = Spool(folder=folder, left=None, bytes_max=64 << 20, segment_bytes=1 << 20)
    for index in range(10_000):
        end(spool, admit(spool, str(index)), str(index))
    reader = SpoolReader(spool=spool, after=0)
    found: list[str] = []
    while (read := reader.read(rest=True)) is not None:
        assert len(read.content) < PORTION_BYTES + 1_000
        message = IngestRequest.FromString(read.content)
        assert message.calls[-1].sequence == read.upto.through
        found += request_ids(message)
        assert read.upto.events == len(found)
    assert found == [str(index) for index in range(10_000)]


def test_records_wait_for_company_until_all_are_wanted(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    reader = SpoolReader(spool=spool, after=0)
    assert not reader.behind
    end(spool, admit(spool))
    assert reader.behind
    assert reader.read(rest=False) is None
    assert reader.read(rest=True) is not None
    assert reader.read(rest=True) is None


def test_an_heir_sends_in_the_same_portions_what_was_left(tmp_path: Path) -> None:
    folder = SpoolFolder.new(tmp_path, gateway_id="g")
    spool = Spool(folder=folder, left=None, bytes_max=64 << 20, segment_bytes=1 << 20)
    for index in range(6_000):
        end(spool, admit(spool, str(index)), str(index))
    spool.close(empty=False)
    (folder,) = spool_folder.abandoned(tmp_path)
    heir = taken_over(folder)
    assert request_ids(told(heir)) == [str(index) for index in range(6_000)]
    assert max(portion.events for segment in heir.segments for portion in segment.portions) == heir.events == 6_000


def test_a_folder_that_can_not_be_read_keeps_no_other_from_being_taken(tmp_path: Path) -> None:
    bad, good = (new_spool(tmp_path).folder for _ in range(2))
    for folder in (bad, good):
        folder.release()
    lock = bad.path / "owner"
    lock.unlink()
    lock.mkdir()
    unread: list[Path] = []
    (taken,) = spool_folder.abandoned(tmp_path, unread=lambda path, _: unread.append(path))
    assert (taken.path, unread) == (good.path, [bad.path])


def test_a_spool_of_another_form_is_left_as_it_is(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    end(spool, admit(spool, "one"), "one")
    spool.close(empty=False)
    (file,) = spool.folder.path.glob("*.segment")
    written = b"\x46" + file.read_bytes()[1:]
    file.write_bytes(written)
    with pytest.raises(UnknownSpoolError, match="another version"):
        replayed(spool.folder.path)
    assert file.read_bytes() == written


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
