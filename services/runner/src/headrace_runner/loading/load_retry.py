"""When a version that could not be loaded is tried again."""

from __future__ import annotations

from dataclasses import dataclass

_PAUSE_S = 5.0
# What a retry may cure, such as a registry that is away, is tried again sooner.
_PAUSE_SOON_S = 1.0
_PAUSE_MAX_S = 60.0
_DOUBLINGS_MAX = 6
# A failure that nobody has asked about for so long after its pause is forgotten.
_KEPT_S = 600.0


@dataclass(slots=True)
class LoadRetry:
    """The failures of one version in a row, and the pause after them, which doubles. Pure; times are of one clock."""

    failures: int = 0
    due_at: float = 0.0

    def failed(self, now: float, *, retryable: bool) -> float:
        """Notes a failure; returns the pause after it in seconds."""
        first_s = _PAUSE_SOON_S if retryable else _PAUSE_S
        pause_s = min(first_s * 2 ** min(self.failures, _DOUBLINGS_MAX), _PAUSE_MAX_S)
        self.failures += 1
        self.due_at = now + pause_s
        return pause_s

    def succeeded(self) -> None:
        """The next failure is a first one again."""
        self.failures = 0

    def pausing(self, now: float) -> bool:
        """Whether it is too early for another try."""
        return now < self.due_at

    def stale(self, now: float) -> bool:
        """Whether nobody has asked for another try for so long that the failure may be forgotten."""
        return now > self.due_at + _KEPT_S
