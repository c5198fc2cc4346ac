"""What a gateway writes down of its calls, kept in a list."""

from __future__ import annotations

from headrace.quota.internal.v1.usage_ingest_pb2 import CallRecord, IngestRequest
from headrace_common.errors import HeadraceError
from headrace_gateway.accounting import records
from headrace_gateway.accounting.records import Estimate


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
        self.full: HeadraceError | None = None

    def check_room(self) -> None:
        if self.full is not None:
            raise self.full

    def admit(self, admitted_us: int, estimate: Estimate, texts: bytes) -> int:
        self.admissions += 1
        body = records.admitted(self.admissions, admitted_us, estimate, texts)
        self.open[self.admissions] = CallRecord.FromString(body)
        return self.admissions

    def end(
        self,
        admission: int,
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
        texts: bytes,
    ) -> None:
        del self.open[admission]
        record = records.ended(
            1,
            admission,
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
            texts,
        )
        self.rows.extend(IngestRequest.FromString(record).calls)
