"""When a process that died is started again."""

from __future__ import annotations


class RestartBackoff:
    """Doubles the pause with every early death, and forgets once a process has stayed up for a while. Pure.

    The first restart is nearly immediate: a runner that was killed has to be back before anybody notices.
    """

    def __init__(self, *, first_s: float = 0.1, longest_s: float = 10.0, steady_after_s: float = 20.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._steady_after_s = steady_after_s
        self._deaths = 0

    @property
    def deaths(self) -> int:
        """Early deaths in a row."""
        return self._deaths

    def after_death(self, *, lived_s: float) -> float:
        """Seconds to wait before the next start of a process that lived for `lived_s`."""
        if lived_s >= self._steady_after_s:
            self._deaths = 0
        # The exponent is bounded so that a process that fails for days can't overflow it.
        pause_s = min(self._longest_s, self._first_s * 2 ** min(self._deaths, 16))
        self._deaths += 1
        return pause_s
