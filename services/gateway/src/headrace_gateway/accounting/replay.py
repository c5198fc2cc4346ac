"""What a process that has ended left in its spool. Pure but for reading the files."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord, SpoolRecord
from headrace_gateway.accounting import admissions, records
from headrace_gateway.accounting.segments import PORTION_BYTES, Portion, Segment, existing, mapped

ADMISSIONS = "admissions"
"""The file of open calls in a spool's folder."""


class UnknownSpoolError(Exception):
    """What is there is not a spool as this version writes it; whoever understands it may still send it."""


@dataclass(slots=True)
class Replayed:
    """The state of a spool after its last whole record.

    Attributes:
        open: Calls without an end, by the number of their admission.
        sequence: The highest.
        events: Records that quota is to be told.
        latest_us: Unix time in microseconds of the latest thing that is known to have happened.
        file_number: The highest of a file.
    """

    segments: list[Segment] = field(default_factory=list[Segment])
    open: dict[int, CallRecord] = field(default_factory=dict[int, CallRecord])
    sequence: int = 0
    events: int = 0
    latest_us: int = 0
    file_number: int = 0

    def admitted(self, bodies: dict[int, bytes]) -> None:
        """Takes the calls that had not ended when their writer did; to be told before the files."""
        for admission, body in bodies.items():
            call = self.open[admission] = CallRecord.FromString(body)
            self.sequence = max(self.sequence, admission)
            self.latest_us = max(self.latest_us, call.admit_time_us)

    def take(self, written: memoryview, segment: Segment) -> None:
        """Takes the records of one file, up to the first that is not whole: its writer was killed in the middle."""
        begin = 0
        try:
            for end, kind, body in records.bodies(written):
                if kind == records.CALL_FIELD:
                    call = CallRecord.FromString(bytes(body))
                    number = call.sequence
                    # Its writer was killed before it could free the place of the call's admission.
                    self.open.pop(call.admission, None)
                    self.latest_us = max(self.latest_us, call.admit_time_us + call.total_us)
                else:
                    number = SpoolRecord.FromString(bytes(body)).sequence
                segment.last_event = number
                segment.end = end
                self.events += 1
                self.sequence = max(self.sequence, number)
                if end - begin >= PORTION_BYTES:
                    segment.portions.append(Portion(end, number, self.events))
                    begin = end
        except (struct.error, DecodeError):
            # Whole by its checksum, and yet not ours: nothing after it can be trusted.
            pass
        if segment.end > begin:
            segment.portions.append(Portion(segment.end, segment.last_event, self.events))


def replayed(folder: Path) -> Replayed:
    """Reads a spool that nobody writes to.

    Raises:
        OSError: A file can't be read.
        UnknownSpoolError: One is not in the form that this version writes.
    """
    state = Replayed()
    try:
        places = admissions.read(folder / ADMISSIONS)
        state.admitted({admission: body for admission, (_, body) in places.items()})
    except (struct.error, DecodeError):
        raise UnknownSpoolError(f"{ADMISSIONS} was written by another version") from None
    for number, path in existing(folder):
        state.file_number = number
        content = mapped(path)
        if content is None:
            path.unlink()
            continue
        segment = Segment(path=path)
        with content, memoryview(content) as written:
            if not records.begins(written):
                raise UnknownSpoolError(f"{path.name} was written by another version")
            state.take(written, segment)
        state.segments.append(segment)
    return state
