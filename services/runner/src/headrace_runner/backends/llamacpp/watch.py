"""What is due while a model's process runs."""

from __future__ import annotations

from http.client import HTTPException

from headrace_common.clock import Clock
from headrace_runner.backends.llamacpp.child_process import Endpoint
from headrace_runner.backends.llamacpp.health import answers

TICK_S = 1.0
LOADING_MAX_S = 600.0
_TELL_LOADING_S = 5.0
_MEASURE_S = 10.0
# How long a process may compute without a look at its requests before it counts as hanging. It looks after each batch.
_SILENCE_MAX_S = 10.0
_SILENCE_PER_TOKEN_S = 0.1


class Watch:
    """Knows when what is due.

    Args:
        batch: Tokens that the process computes at once.
    """

    def __init__(self, *, clock: Clock, batch: int) -> None:
        self._clock = clock
        self._silence_max_s = _SILENCE_MAX_S + _SILENCE_PER_TOKEN_S * batch
        self._started_s = self._told_s = clock.monotonic()
        self._measured_s = self._heard_s = self._asked_s = self._started_s

    @property
    def age_s(self) -> float:
        return self._clock.monotonic() - self._started_s

    def ready(self) -> None:
        self._measured_s = self._heard_s = self._asked_s = self._clock.monotonic()

    def tells_loading(self) -> bool:
        now_s = self._clock.monotonic()
        due = now_s - self._told_s >= _TELL_LOADING_S
        if due:
            self._told_s = now_s
        return due

    def measures(self) -> bool:
        now_s = self._clock.monotonic()
        due = now_s - self._measured_s >= _MEASURE_S
        if due:
            self._measured_s = now_s
        return due

    def is_silent(self, endpoint: Endpoint) -> bool:
        """Whether the process has computed one thing for too long. Asks it at most once a tick."""
        now_s = self._clock.monotonic()
        if now_s - self._asked_s < TICK_S:
            return False
        try:
            if answers(endpoint):
                self._heard_s = self._clock.monotonic()
        except (OSError, HTTPException):
            pass
        self._asked_s = self._clock.monotonic()
        return self._asked_s - self._heard_s > self._silence_max_s
