"""What a gateway writes down of its calls, kept in a list."""

from __future__ import annotations

from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord, IngestRequest
from headrace_common.errors import HeadraceError


class ListedCalls:
    """A spool without files. `full` is what calls are refused with while it is set.

    Attributes:
        open: What was written at the admission of calls that have not ended.
        rows: Ends.
    """

    def __init__(self) -> None:
        self.open: dict[int, CallRecord] = {}
        self.rows: list[CallRecord] = []
        self.admissions = 0
        self.sequence = 0
        self.full: HeadraceError | None = None

    def check_room(self) -> None:
        if self.full is not None:
            raise self.full

    def admit(self, body: bytes) -> int:
        self.admissions += 1
        self.sequence += 1
        self.open[self.sequence] = CallRecord.FromString(body)
        return self.sequence

    def end(self, admission: int, record: bytes) -> None:
        self.sequence += 1
        (row,) = IngestRequest.FromString(record).calls
        begun = self.open.pop(admission)
        assert (begun.admission, row.admission, row.sequence) == (admission, admission, self.sequence)
        self.rows.append(row)
