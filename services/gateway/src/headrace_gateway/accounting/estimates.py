"""What calls of a version are expected to use, by what those before have used. Pure."""

from __future__ import annotations

from math import ceil

COMPLETION_TOKENS = 256
"""Of each completion, until one has ended, where the request states no most."""
BYTES_PER_TOKEN = 4
_WEIGHT = 0.1


class VersionUse:
    """Moving averages of one version.

    Attributes:
        device_ms: Of a call; `device_ms_up` is the same rounded up.
        completion_tokens: Of a completion whose request states no most.
    """

    __slots__ = ("_owed_ms", "completion_tokens", "device_ms", "device_ms_up")

    def __init__(self) -> None:
        self.device_ms = 0.0
        self.device_ms_up = 0
        self.completion_tokens = float(COMPLETION_TOKENS)
        self._owed_ms = 0.0

    def computed(self, device_ms: float) -> None:
        """A call was answered that took so long on its device."""
        average = self.device_ms
        self.device_ms = average = average + _WEIGHT * (device_ms - average) if average else device_ms
        self.device_ms_up = ceil(average)

    def generated(self, tokens: float) -> None:
        """A completion without a stated most had so many tokens."""
        self.completion_tokens += _WEIGHT * (tokens - self.completion_tokens)

    def whole_ms(self, device_ms: float) -> int:
        """Device time in whole milliseconds: what is cut off one call is counted with a later one."""
        owed = self._owed_ms + device_ms
        whole = int(owed)
        self._owed_ms = owed - whole
        return whole


def prompt_tokens(request_bytes: int) -> int:
    """About how many tokens the prompt of a request has."""
    return request_bytes // BYTES_PER_TOKEN
