"""A gateway's spool: what was admitted and what ended, in memory that outlives the process."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from headrace_common import catalogue
from headrace_common.errors import StorageUnavailable
from headrace_gateway.accounting import records, segments
from headrace_gateway.accounting.records import Estimate, Kind, Labels, Texts
from headrace_gateway.accounting.replay import Replayed
from headrace_gateway.accounting.segments import SEGMENT_BYTES, Segment
from headrace_gateway.accounting.spool_folder import SpoolFolder

_MARGIN_BYTES = 64 << 10
"""Left free at a segment's end, so that what belongs together need not look whether there is room for it."""
EVENT_BYTES_MAX = 32 << 10
RETRY_AFTER_S = 2.0

_pack_admitted = records.admitted
_pack_ended = records.ended
_frame = records.frame


class Spool:
    """Writes records into mapped files: a copy in memory each, no system call. One event loop.

    What is written survives the death of the process at any moment, but not that of the machine. Ends of calls are
    always written; so the bound may be exceeded by what those need that are open, which are bounded themselves.

    Args:
        folder: Where the files are; the spool owns it.
        left: What the last owner left in it; None where it is new.
        bytes_max: Of all files; when they are full, no call is admitted.
        segment_bytes: Of each file, at least twice the margin at its end.

    Attributes:
        segments: The files that hold something that quota hasn't acknowledged, the last of them being written to.
        at: Where the last record ends in that one.
        sequence: Of the last record.
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
        self._open: dict[int, tuple[Labels, bytes]] = {}
        self._numbers: dict[Texts, int] = {}
        self._late: list[Callable[[], None]] = []
        self._spare: tuple[Segment, mmap.mmap] | None = None
        self._segment, self._written = self._created()
        self.segments.append(self._segment)
        self.at = 0
        if left is not None:
            for labels, call in left.open.values():
                self._open[call.sequence] = (
                    labels,
                    _pack_admitted(call.sequence, 0, call.admitted_us, call.estimate, call.request_id.encode()),
                )

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
        if self.at <= self._full_at:
            return
        if self._spare is None and len(self.segments) >= self._files_max:
            self.refused += 1
            raise spool_full()
        try:
            self._turn()
        except OSError:
            self.refused += 1
            raise spool_full() from None

    def admit(self, labels: Labels, admitted_us: int, estimate: Estimate, request_id: bytes) -> int:
        """A call was admitted; returns its number. `check_room` was called."""
        number = self._numbers.get(labels) or self._note(labels)
        self.sequence = call = self.sequence + 1
        body = _pack_admitted(call, number, admitted_us, estimate, request_id)
        self._open[call] = (labels, body)
        self._write(body)
        return call

    def end(
        self,
        call: int,
        labels: Labels,
        place: Texts | None,
        reason: str,
        status: int,
        admitted_us: int,
        total_us: int,
        queue_us: int,
        execution_us: int,
        input_bytes: int,
        output_bytes: int,
        prompt_tokens: int,
        completion_tokens: int,
        device_ms: float,
        attempts: int,
        request_id: bytes,
    ) -> None:
        """A call has ended; see `records.Ended`. Where there is no room on the disk it is written later."""
        if self.at > self._full_at:
            try:
                self._turn()
            except OSError:
                arguments = (
                    call,
                    labels,
                    place,
                    reason,
                    status,
                    admitted_us,
                    total_us,
                    queue_us,
                    execution_us,
                    input_bytes,
                    output_bytes,
                    prompt_tokens,
                    completion_tokens,
                    device_ms,
                    attempts,
                    request_id,
                )
                self._late.append(lambda: self.end(*arguments))
                return
        numbers = self._numbers
        self.sequence = sequence = self.sequence + 1
        body = _pack_ended(
            sequence,
            call,
            numbers.get(labels) or self._note(labels),
            (numbers.get(place) or self._note(place)) if place is not None else 0,
            (numbers.get((reason,)) or self._note((reason,))) if reason else 0,
            status,
            admitted_us,
            total_us,
            queue_us,
            execution_us,
            input_bytes,
            output_bytes,
            prompt_tokens,
            completion_tokens,
            device_ms,
            attempts,
            request_id,
        )
        self._write(body)
        self._segment.last_event = sequence
        self.events += 1
        self._open.pop(call, None)

    def tell(self, kind: Kind, message: bytes) -> None:
        """Something else that quota is to know: a serialised message of at most `EVENT_BYTES_MAX`.

        Raises:
            StorageUnavailable: SPOOL_FULL (UNAVAILABLE): it is not written.
        """
        self.check_room()
        self._write_event(kind, message)

    def tell_surely(self, kind: Kind, message: bytes) -> None:
        """As `tell`, for what has already been done: beyond the bound, too. Where the disk has no room, later."""
        if self.at > self._full_at:
            try:
                self._turn()
            except OSError:
                self._late.append(lambda: self.tell_surely(kind, message))
                return
        self._write_event(kind, message)

    def abandon(self, left: Replayed, *, status: int, reason: str) -> None:
        """Ends what the last owner left open, charged at its estimate.

        Raises:
            OSError: There is no room; to be called again.
        """
        for labels, call in left.open.values():
            if call.sequence not in self._open:
                continue
            if self.at > self._full_at:
                self._turn()
            estimate = call.estimate
            self.end(
                call.sequence,
                labels,
                None,
                reason,
                status,
                call.admitted_us,
                max(0, left.latest_us - call.admitted_us),
                0,
                0,
                estimate.input_bytes,
                0,
                estimate.prompt_tokens,
                estimate.completion_tokens,
                estimate.device_ms,
                0,
                call.request_id.encode(),
            )

    def acknowledge(self, through: int) -> None:
        """Quota has everything up to this sequence: files that have nothing else go, once their open calls are kept.

        Raises:
            OSError: There is no room to keep them; nothing is lost, and the next call tries again.
        """
        done = 0
        while self.segments[done] is not self._segment and self.segments[done].last_event <= through:
            done += 1
        if not done:
            return
        self._carry(before=self.segments[done].first)
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
        if empty:
            self.folder.remove()
        else:
            self.folder.release()

    def _write_event(self, kind: Kind, message: bytes) -> None:
        if len(message) > EVENT_BYTES_MAX:
            raise ValueError(f"an event has at most {EVENT_BYTES_MAX} bytes")
        self.sequence += 1
        self._write(records.event(kind, self.sequence, message))
        self._segment.last_event = self.sequence
        self.events += 1

    def _write(self, body: bytes) -> None:
        framed = _frame(body)
        at = self.at
        self.at = end = at + len(framed)
        self._written[at:end] = framed

    def _note(self, texts: Texts) -> int:
        """Gives texts a number in this file."""
        number = self._numbers[texts] = len(self._numbers) + 1
        self._write(records.texts(number, texts))
        return number

    def _carry(self, *, before: int) -> None:
        """Writes the open calls again that were admitted before a sequence, because their files go."""
        for call, (labels, body) in list(self._open.items()):
            if call >= before:
                break
            if self.at > self._full_at:
                self._turn()
            self._write(records.relabelled(body, self._numbers.get(labels) or self._note(labels)))

    def _turn(self) -> None:
        """Goes on in the next file.

        Raises:
            OSError: There is no room for one.
        """
        following, written = self._spare or self._created()
        self._spare = None
        following.first = self.sequence + 1
        self._segment.end = self.at
        self._written.close()
        self._segment, self._written = following, written
        self.segments.append(following)
        self._numbers = {}
        self.at = 0

    def _created(self) -> tuple[Segment, mmap.mmap]:
        self._file_number += 1
        return segments.create(self.folder.path, self._file_number, self.sequence + 1, self._segment_bytes)


def spool_full() -> StorageUnavailable:
    """What callers are told while there is no room."""
    return StorageUnavailable(
        "the gateway can't write down what calls use: quota takes nothing, and there is no room to keep more",
        entry=catalogue.SPOOL_FULL,
        retry_after_s=RETRY_AFTER_S,
    )
