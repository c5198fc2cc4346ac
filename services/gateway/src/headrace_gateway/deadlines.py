"""How much of a client's time a call that is passed on may use."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_common.catalogue import DEADLINE_ALREADY_OVER
from headrace_common.errors import DeadlineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a call may take that is passed on.

    Attributes:
        call_s: Deadline of a unary call whose client sent none, seconds.
        transfer_s: The same for uploads and downloads.
        margin_s: Taken off what is left, so that our answer beats the client's own clock; at most a tenth of it.
    """

    call_s: float
    transfer_s: float
    margin_s: float

    def forwarded_s(self, remaining_s: float | None, *, streaming: bool) -> float:
        """Seconds that the upstream service gets.

        Args:
            remaining_s: What is left of the client's deadline; None where it sent none.
            streaming: Whether messages stream in either direction.

        Raises:
            DeadlineError: DEADLINE_ALREADY_OVER (DEADLINE_EXCEEDED).
        """
        if remaining_s is None:
            return self.transfer_s if streaming else self.call_s
        if remaining_s <= 0:
            raise DeadlineError("the call's deadline was over before any work began", entry=DEADLINE_ALREADY_OVER)
        return remaining_s - min(self.margin_s, remaining_s / 10)
