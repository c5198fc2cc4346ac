"""What a gateway writes down of its calls, kept in a list."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_common.errors import HeadraceError
from headrace_gateway.accounting.records import Ended, Estimate, Labels, Texts


@dataclass(frozen=True)
class Row:
    """An end, with its texts in place of their numbers."""

    labels: Labels
    place: Texts | None
    reason: str
    ended: Ended


class ListedCalls:
    """A spool without files. `full` is what calls are refused with while it is set."""

    def __init__(self) -> None:
        self.open: dict[int, tuple[Labels, Estimate]] = {}
        self.rows: list[Row] = []
        self.admissions = 0
        self.full: HeadraceError | None = None

    def check_room(self) -> None:
        if self.full is not None:
            raise self.full

    def admit(self, labels: Labels, admitted_us: int, estimate: Estimate, request_id: bytes) -> int:
        self.admissions += 1
        self.open[self.admissions] = (labels, estimate)
        return self.admissions

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
        del self.open[call]
        ended = Ended(
            0,
            call,
            0,
            0,
            0,
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
            request_id.decode(),
        )
        self.rows.append(Row(labels, place, reason, ended))
