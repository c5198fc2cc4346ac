"""When a process that answers no more counts as hanging."""

from __future__ import annotations

# Less processor time than that in a round is none: half of the 0.01 s in which Linux counts it.
_STILL_S = 0.005
_STILL_ROUNDS_MAX = 120


class Silence:
    """Follows a process from a question until its answer.

    What counts is the processor time that it has had meanwhile, not how long it took: on a busy or stopped machine it
    gets little, and computes as it should. One that waits for something that never comes uses none, and is given many
    rounds. Pure.

    Args:
        work_max_s: Processor time after which it must have looked at its requests.
    """

    def __init__(self, *, work_max_s: float) -> None:
        self._work_max_s = work_max_s
        self._from_s = self._last_s = 0.0
        self._still_rounds = 0

    def begins(self, processor_s: float) -> None:
        """It is asked, and has used so much processor time in its life."""
        self._from_s = self._last_s = processor_s
        self._still_rounds = 0

    def goes_on(self, processor_s: float) -> bool:
        """One more round without an answer; returns whether the process hangs."""
        self._still_rounds += processor_s - self._last_s < _STILL_S
        self._last_s = processor_s
        return processor_s - self._from_s > self._work_max_s or self._still_rounds > _STILL_ROUNDS_MAX
