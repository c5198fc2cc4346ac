"""How fast artefacts are fetched while calls are served."""

from __future__ import annotations

from collections.abc import Callable

_SERVING_S = 1.0
# Who sleeps too long may catch up on so much.
_LATE_S = 0.05


class FetchPace:
    """Keeps all fetches of a runner together to so many bytes a second while it serves calls. Pure.

    A fetch costs processor time here, and on one machine at the registry too, which calls would wait for; while there
    are none, it may go as fast as it can.

    Args:
        bytes_per_s: The bound; 0 means none.
        called_at: When the last call came, by the monotonic clock; None when none has come.
    """

    def __init__(self, *, bytes_per_s: int, called_at: Callable[[], float | None]) -> None:
        self._bytes_per_s = bytes_per_s
        self._called_at = called_at
        self._free_at = 0.0

    def pause_s(self, size_bytes: int, now: float) -> float:
        """How long to wait after so many bytes before the next ones are read."""
        called_at = self._called_at()
        if not self._bytes_per_s or called_at is None or now - called_at > _SERVING_S:
            return 0.0
        self._free_at = max(self._free_at, now - _LATE_S) + size_bytes / self._bytes_per_s
        return max(0.0, self._free_at - now)
