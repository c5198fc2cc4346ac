"""What a process that has ended left in its spool. Pure but for reading the files."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from headrace_gateway.accounting import records
from headrace_gateway.accounting.records import Admitted, Kind, Labels, Texts
from headrace_gateway.accounting.segments import Segment, existing, mapped


@dataclass(slots=True)
class Replayed:
    """The state of a spool after its last whole record.

    Attributes:
        open: Admissions without an end, by their sequence.
        sequence: The highest.
        events: Records that quota is to be told.
        latest_us: Unix time in microseconds of the latest thing that is known to have happened.
        file_number: The highest of a file.
    """

    segments: list[Segment] = field(default_factory=list[Segment])
    open: dict[int, tuple[Labels, Admitted]] = field(default_factory=dict[int, "tuple[Labels, Admitted]"])
    sequence: int = 0
    events: int = 0
    latest_us: int = 0
    file_number: int = 0

    def take(self, written: memoryview, segment: Segment) -> None:
        """Takes the records of one file, up to the first that is not whole: its writer was killed in the middle."""
        texts: dict[int, Texts] = {}
        try:
            for end, body in records.bodies(written):
                self._take(body, texts, segment)
                segment.end = end
        except (struct.error, KeyError, TypeError):
            # Whole by its checksum, and yet not ours: nothing after it can be trusted.
            return

    def _take(self, body: memoryview, texts: dict[int, Texts], segment: Segment) -> None:
        kind, number = records.prefix(body)
        if kind == Kind.TEXTS:
            texts[number] = records.read_texts(body)
            return
        if kind == Kind.ADMITTED:
            call = records.read_admitted(body)
            # What was carried over from an older file may still be there.
            self.open.setdefault(number, (Labels(*texts[call.labels]), call))
            self.latest_us = max(self.latest_us, call.admitted_us)
        elif kind == Kind.ENDED:
            ended = records.read_ended(body, 0, len(body))
            self.open.pop(ended.call, None)
            self.latest_us = max(self.latest_us, ended.admitted_us + ended.total_us)
        if kind != Kind.ADMITTED:
            segment.last_event = number
            self.events += 1
        self.sequence = max(self.sequence, number)


def replayed(folder: Path) -> Replayed:
    """Reads a spool that nobody writes to.

    Raises:
        OSError: A file can't be read.
    """
    state = Replayed()
    for number, path in existing(folder):
        state.file_number = number
        content = mapped(path)
        if content is None:
            path.unlink()
            continue
        segment = Segment(path=path, first=state.sequence + 1)
        with content, memoryview(content) as written:
            state.take(written, segment)
        state.segments.append(segment)
    return state
