"""A gateway's spool: what was admitted and what ended, in memory that outlives the process."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from headrace.quota.internal.v1.usage_ingest_pb2 import SpoolRecord
from headrace_common import catalogue
from headrace_common.errors import StorageUnavailable
from headrace_gateway.accounting import records, segments
from headrace_gateway.accounting.admissions import Admissions
from headrace_gateway.accounting.replay import ADMISSIONS, Replayed
from headrace_gateway.accounting.segments import PORTION_BYTES, SEGMENT_BYTES, Portion, Segment
from headrace_gateway.accounting.spool_folder import SpoolFolder

_MARGIN_BYTES = 64 << 10
"""Left free at a segment's end, so that what is written needs not look whether there is room for it."""
EVENT_BYTES_MAX = 32 << 10
RETRY_AFTER_S = 2.0


class Spool:
    """Writes records into mapped files: a copy in memory each, no system call. One event loop.

    A call that is open has a place in one file. Its end is a record behind the others in another, and frees the place.
    What is written survives the death of the process at any moment, but not that of the machine. Ends of calls are
    always written; so the bound may be exceeded by what those need that are open, which are bounded themselves.

    Args:
        folder: Where the files are; the spool owns it.
        left: What the last owner left in it; None where it is new.
        bytes_max: Of all files of records; when they are full, no call is admitted.
        segment_bytes: Of each file, at least twice the margin at its end.

    Attributes:
        segments: The files that hold something that quota hasn't acknowledged, the last of them being written to.
        at: Where the last record ends in that one.
        sequence: Of the last record or admission.
        events: Records for quota so far.
        refused: Calls and events that there was no room for.
    """

    def __init__(
        self, *, folder: SpoolFolder, left: Replayed | None, bytes_max: int, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.folder = folder
        self.segments: list[Segment] = list(left.segments) if left is not None else []
        self.sequence = left.sequence if left is not None else 0
        self.events = left.events if left is not None else 0
        self.refused = 0
        self._files_max = max(2, bytes_max // segment_bytes)
        self._segment_bytes = segment_bytes
        self._full_at = segment_bytes - _MARGIN_BYTES
        self._file_number = left.file_number if left is not None else 0
        self._late: list[Callable[[], None]] = []
        self._spare: tuple[Segment, mmap.mmap] | None = None
        self._open = Admissions(path=folder.path / ADMISSIONS)
        for admission in self._open.numbers:
            if left is None or admission not in left.open:
                self._open.remove(admission)
        self._segment, self._written = self._created()
        self.segments.append(self._segment)
        self.at = 0
        self._portion_at = PORTION_BYTES

    @property
    def waits(self) -> bool:
        """Whether something waits for room on the disk."""
        return bool(self._late)

    @property
    def open_calls(self) -> int:
        """Calls without an end."""
        return len(self._open)

    @property
    def held_bytes(self) -> int:
        """Bytes of the records that are kept."""
        return sum(segment.end for segment in self.segments) + self.at

    def check_room(self) -> None:
        """Makes sure that a call can be admitted. To be called right before that.

        Raises:
            StorageUnavailable: SPOOL_FULL (UNAVAILABLE).
        """
        if self.at <= self._full_at and self._open.free:
            return
        try:
            if not self._open.free:
                self._open.grow()
            if self.at > self._full_at:
                if self._spare is None and len(self.segments) >= self._files_max:
                    raise OSError("all files are in use")
                self._turn()
        except OSError:
            self.refused += 1
            raise spool_full() from None

    def admit(self, body: bytes) -> int:
        """A call was admitted: `records.admitted` with the next number, which is returned. `check_room` was called."""
        self.sequence = admission = self.sequence + 1
        self._open.add(admission, body)
        return admission

    def end(self, admission: int, record: bytes) -> None:
        """A call has ended: `records.ended` with the next number. Where the disk has no room it is written later."""
        if self.at > self._full_at:
            try:
                self._turn()
            except OSError:
                self._late.append(lambda: self.end(admission, records.renumbered(record, self.sequence + 1)))
                return
        self._write(record)
        self._open.remove(admission)

    def tell(self, record: SpoolRecord) -> None:
        """Something else that quota is to know, of at most `EVENT_BYTES_MAX`; its sequence is set.

        Raises:
            StorageUnavailable: SPOOL_FULL (UNAVAILABLE): it is not written.
        """
        self.check_room()
        self._write_event(record)

    def tell_surely(self, record: SpoolRecord) -> None:
        """As `tell`, for what has already been done: beyond the bound, too. Where the disk has no room, later."""
        if self.at > self._full_at:
            try:
                self._turn()
            except OSError:
                self._late.append(lambda: self.tell_surely(record))
                return
        self._write_event(record)

    def abandon(self, left: Replayed, *, status: int, reason: str) -> None:
        """Ends what the last owner left open, charged at its estimate.

        Raises:
            OSError: There is no room; to be called again.
        """
        for admission, call in left.open.items():
            if admission not in self._open:
                continue
            if self.at > self._full_at:
                self._turn()
            call.sequence = self.sequence + 1
            call.status = status  # pyright: ignore[reportAttributeAccessIssue] - one of ours
            call.error_reason = reason
            call.total_us = max(0, left.latest_us - call.admit_time_us)
            self._write(records.framed_call(call.SerializeToString()))
            self._open.remove(admission)

    def acknowledge(self, through: int) -> None:
        """Quota has everything up to this sequence: files that have nothing else go.

        The newest file that has something stays, for it tells how far the sequence is.
        """
        done = 0
        while self.segments[done] is not self._segment and self.segments[done].last_event <= through:
            done += 1
        if done == len(self.segments) - 1 and not self._segment.last_event:
            done -= 1
        gone, self.segments = self.segments[:done], self.segments[done:]
        for segment in gone:
            segment.path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """To be called now and then: has the next file ready before it is needed, and writes what came too late."""
        if self._late:
            late, self._late = self._late, []
            for write in late:
                write()
        if self._spare is None and self.at > self._segment_bytes // 2 and len(self.segments) < self._files_max:
            try:
                self._spare = self._created()
            except OSError:
                return

    def close(self, *, empty: bool) -> None:
        """Lets go of the files; `empty` removes them, because quota has everything."""
        if self._spare is not None:
            spare, written = self._spare
            self._spare = None
            written.close()
            spare.path.unlink(missing_ok=True)
        if not self._written.closed:
            self._segment.end = self.at
            self._written.close()
            self._open.close()
        if empty:
            self.folder.remove()
        else:
            self.folder.release()

    def _write_event(self, record: SpoolRecord) -> None:
        if record.ByteSize() > EVENT_BYTES_MAX:
            raise ValueError(f"an event has at most {EVENT_BYTES_MAX} bytes")
        record.sequence = self.sequence + 1
        self._write(records.framed_event(record.SerializeToString()))

    def _write(self, framed: bytes) -> None:
        """Writes a record with the next sequence."""
        self.sequence = self._segment.last_event = self.sequence + 1
        self.events += 1
        at = self.at
        self.at = end = at + len(framed)
        self._written[at:end] = framed
        if end >= self._portion_at:
            self._finish_portion()

    def _finish_portion(self) -> None:
        self._segment.portions.append(Portion(self.at, self._segment.last_event, self.events))
        self._portion_at = self.at + PORTION_BYTES

    def _turn(self) -> None:
        """Goes on in the next file.

        Raises:
            OSError: There is no room for one.
        """
        following, written = self._spare or self._created()
        self._spare = None
        self._finish_portion()
        self._segment.end = self.at
        self._written.close()
        self._segment, self._written = following, written
        self.segments.append(following)
        self.at = 0
        self._portion_at = PORTION_BYTES

    def _created(self) -> tuple[Segment, mmap.mmap]:
        self._file_number += 1
        return segments.create(self.folder.path, self._file_number, self._segment_bytes)


def spool_full() -> StorageUnavailable:
    """What callers are told while there is no room."""
    return StorageUnavailable(
        "the gateway can't write down what calls use: quota takes nothing, and there is no room to keep more",
        entry=catalogue.SPOOL_FULL,
        retry_after_s=RETRY_AFTER_S,
    )
